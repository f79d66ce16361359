// Reads the zip container that both TorchScript and AOTInductor files are.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kan_md {

// A model file opened for inspection. Entries are stored as they are or deflated.
class Archive {
 public:
  // Reads the directory of the archive.
  // Throws Error where the file is missing, is a text or other non-zip file, or is cut off.
  explicit Archive(const std::string &path);

  const std::string &path() const { return path_; }

  // Names of all entries, in file order.
  std::vector<std::string> names() const;

  // Full name of the first entry that ends in `suffix`, or an empty string.
  std::string find(const std::string &suffix) const;

  // Whether an entry's name contains `part`.
  bool contains(const std::string &part) const;

  // Whether the bytes of an entry whose name contains `name_part` contain `text`.
  bool mentions(const std::string &name_part, const std::string &text) const;

  // Content of the entry `name`, which must exist.
  std::string read(const std::string &name) const;

  // Compares the checksum of every entry with its content.
  // Throws Error naming the first entry that was altered.
  void verify() const;

 private:
  struct Entry {
    std::string name;
    std::uint64_t offset;    // of the local header
    std::uint64_t size, packed_size;
    std::uint32_t crc;
    std::uint16_t method;
  };

  std::string content(const Entry &entry) const;

  std::string path_;
  std::vector<Entry> entries_;
};

}    // namespace kan_md
