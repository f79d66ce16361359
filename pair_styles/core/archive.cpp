#include "archive.h"

#include "error.h"
#include "inflate.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

namespace kan_md {

namespace {

// Record signatures and fixed sizes: PKWARE .ZIP File Format Specification 6.3.10, sections 4.3.7 to
// 4.3.16. All numbers are little endian, as are the machines that torch runs on.
constexpr std::uint32_t LOCAL_HEADER = 0x04034b50;
constexpr std::uint32_t CENTRAL_HEADER = 0x02014b50;
constexpr std::uint32_t END_RECORD = 0x06054b50;
constexpr std::uint32_t ZIP64_END_RECORD = 0x06064b50;
constexpr std::uint32_t ZIP64_LOCATOR = 0x07064b50;
constexpr std::size_t LOCAL_SIZE = 30, CENTRAL_SIZE = 46, END_SIZE = 22, LOCATOR_SIZE = 20;
constexpr std::uint16_t STORED = 0, DEFLATED = 8;
constexpr std::uint16_t ZIP64_EXTRA = 1;
constexpr std::uint32_t IN_ZIP64 = 0xffffffff;

template <typename T> T load(const char *bytes)
{
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

Error damaged(const std::string &why)
{
  return Error("model file must be a complete compiled model", why, "",
               "copy it again or make it again with kan-md deploy");
}

std::string read_at(std::ifstream &file, std::uint64_t offset, std::uint64_t size)
{
  std::string bytes(size, '\0');
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!file) throw damaged("a truncated file");
  return bytes;
}

struct Directory {
  std::uint64_t offset, size;
};

// Finds the central directory from the end record, which a comment of up to 64 KiB may follow.
Directory locate_directory(std::ifstream &file, std::uint64_t file_size)
{
  const std::uint64_t tail_size =
      std::min<std::uint64_t>(file_size, 65536 + END_SIZE + LOCATOR_SIZE);
  const std::string tail = read_at(file, file_size - tail_size, tail_size);
  for (std::size_t at = tail_size - std::min<std::uint64_t>(tail_size, END_SIZE); at > 0; --at) {
    const char *record = tail.data() + at;
    if (load<std::uint32_t>(record) != END_RECORD) continue;
    Directory found{load<std::uint32_t>(record + 16), load<std::uint32_t>(record + 12)};
    if (at >= LOCATOR_SIZE && load<std::uint32_t>(record - LOCATOR_SIZE) == ZIP64_LOCATOR) {
      const auto where = load<std::uint64_t>(record - LOCATOR_SIZE + 8);
      const std::string end64 = read_at(file, where, 56);
      if (load<std::uint32_t>(end64.data()) != ZIP64_END_RECORD)
        throw damaged("a damaged directory");
      found = {load<std::uint64_t>(end64.data() + 48), load<std::uint64_t>(end64.data() + 40)};
    }
    return found;
  }
  throw damaged("a truncated file");
}

// CRC-32 of ISO 3309, by a table of bytes.
std::uint32_t crc32(const std::string &bytes)
{
  static const auto table = [] {
    std::array<std::uint32_t, 256> values{};
    for (std::uint32_t n = 0; n < 256; ++n) {
      std::uint32_t c = n;
      for (int k = 0; k < 8; ++k) c = (c & 1) ? 0xedb88320u ^ (c >> 1) : c >> 1;
      values[n] = c;
    }
    return values;
  }();
  std::uint32_t crc = 0xffffffffu;
  for (const char byte : bytes)
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xffu] ^ (crc >> 8);
  return ~crc;
}

bool ends_with(const std::string &text, const std::string &suffix)
{
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}    // namespace

Archive::Archive(const std::string &path) : path_(path)
{
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Error("model file must be readable", "no such file", "",
                "check the path in pair_coeff, which is relative to where LAMMPS was started");
  file.seekg(0, std::ios::end);
  const auto file_size = static_cast<std::uint64_t>(std::max<std::streamoff>(file.tellg(), 0));
  if (file_size < 4 || read_at(file, 0, 2) != "PK")
    throw Error("model file must be a compiled model", "a file that is not one (no zip archive)",
                "", "make one with kan-md deploy");
  if (file_size < END_SIZE) throw damaged("a truncated file");

  const Directory directory = locate_directory(file, file_size);
  if (directory.offset + directory.size > file_size) throw damaged("a truncated file");
  const std::string bytes = read_at(file, directory.offset, directory.size);
  for (std::size_t at = 0; at + CENTRAL_SIZE <= bytes.size();) {
    const char *header = bytes.data() + at;
    if (load<std::uint32_t>(header) != CENTRAL_HEADER) break;
    const auto name_size = load<std::uint16_t>(header + 28);
    const auto extra_size = load<std::uint16_t>(header + 30);
    const auto comment_size = load<std::uint16_t>(header + 32);
    const std::size_t total = CENTRAL_SIZE + name_size + extra_size + comment_size;
    if (at + total > bytes.size()) throw damaged("a damaged directory");
    Entry entry{std::string(header + CENTRAL_SIZE, name_size),
                load<std::uint32_t>(header + 42),
                load<std::uint32_t>(header + 24),
                load<std::uint32_t>(header + 20),
                load<std::uint32_t>(header + 16),
                load<std::uint16_t>(header + 10)};
    const char *extra = header + CENTRAL_SIZE + name_size;
    for (const char *end = extra + extra_size; extra + 4 <= end;) {
      const auto size = load<std::uint16_t>(extra + 2);
      if (load<std::uint16_t>(extra) == ZIP64_EXTRA && extra + 4 + size <= end) {
        // Present only for the fields that overflow, in this order: size, packed size, offset.
        const char *value = extra + 4;
        if (load<std::uint32_t>(header + 24) == IN_ZIP64) {
          entry.size = load<std::uint64_t>(value);
          value += 8;
        }
        if (load<std::uint32_t>(header + 20) == IN_ZIP64) {
          entry.packed_size = load<std::uint64_t>(value);
          value += 8;
        }
        if (load<std::uint32_t>(header + 42) == IN_ZIP64) entry.offset = load<std::uint64_t>(value);
      }
      extra += 4 + size;
    }
    if (entry.offset + LOCAL_SIZE > file_size) throw damaged("a damaged directory");
    entries_.push_back(std::move(entry));
    at += total;
  }
  if (entries_.empty()) throw damaged("an empty archive");
}

std::vector<std::string> Archive::names() const
{
  std::vector<std::string> names;
  for (const Entry &entry : entries_) names.push_back(entry.name);
  return names;
}

std::string Archive::find(const std::string &suffix) const
{
  for (const Entry &entry : entries_)
    if (ends_with(entry.name, suffix)) return entry.name;
  return {};
}

bool Archive::contains(const std::string &part) const
{
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry &entry) {
    return entry.name.find(part) != std::string::npos;
  });
}

bool Archive::mentions(const std::string &name_part, const std::string &text) const
{
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry &entry) {
    return entry.name.find(name_part) != std::string::npos &&
           content(entry).find(text) != std::string::npos;
  });
}

std::string Archive::read(const std::string &name) const
{
  for (const Entry &entry : entries_)
    if (entry.name == name) return content(entry);
  throw damaged("no entry " + name);
}

std::string Archive::content(const Entry &entry) const
{
  std::ifstream file(path_, std::ios::binary);
  const std::string header = read_at(file, entry.offset, LOCAL_SIZE);
  if (load<std::uint32_t>(header.data()) != LOCAL_HEADER) throw damaged("a damaged directory");
  const std::uint64_t start = entry.offset + LOCAL_SIZE + load<std::uint16_t>(header.data() + 26) +
                              load<std::uint16_t>(header.data() + 28);
  const std::string packed = read_at(file, start, entry.packed_size);
  if (entry.method == STORED) return packed;
  if (entry.method == DEFLATED) return inflate(packed, entry.size);
  throw damaged("an entry in an unknown compression (" + entry.name + ")");
}

void Archive::verify() const
{
  for (const Entry &entry : entries_)
    if (crc32(content(entry)) != entry.crc)
      throw damaged("an altered file (checksum of " + entry.name + ")");
}

}    // namespace kan_md
