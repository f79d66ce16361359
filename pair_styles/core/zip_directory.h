// The directory of a zip archive, which both TorchScript and AOTInductor files are. Contents are read
// by torch (archive.h); its reader neither gives nor compares checksums, and returns whatever was in
// memory for a damaged entry, so this part is ours.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kan_md {

struct ZipEntry {
  std::string name;
  std::uint64_t size = 0;    // of the content
  std::uint32_t crc = 0;     // of the content
};

// All entries in the order of the directory.
// Throws Error where the file is missing, is a folder, a text or another non-zip file, is cut off, or
// names an entry that it cannot hold.
std::vector<ZipEntry> read_zip_directory(const std::string &path);

// CRC-32 of ISO 3309.
std::uint32_t crc32(const std::string &bytes);

}    // namespace kan_md
