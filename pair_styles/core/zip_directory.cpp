#include "zip_directory.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace kan_md {

namespace {

// Record signatures and fixed sizes: PKWARE .ZIP File Format Specification 6.3.10, sections 4.3.7 to
// 4.3.16. All numbers are little endian, as are the machines that torch runs on.
constexpr std::uint32_t CENTRAL_HEADER = 0x02014b50;
constexpr std::uint32_t END_RECORD = 0x06054b50;
constexpr std::uint32_t ZIP64_END_RECORD = 0x06064b50;
constexpr std::uint32_t ZIP64_LOCATOR = 0x07064b50;
constexpr std::size_t CENTRAL_SIZE = 46, END_SIZE = 22, LOCATOR_SIZE = 20, ZIP64_END_SIZE = 56;
constexpr std::uint16_t ZIP64_EXTRA = 1;
constexpr std::uint32_t IN_ZIP64 = 0xffffffff;
// Deflate makes no content smaller than by this factor (zlib's technical details).
constexpr std::uint64_t MOST_COMPRESSION = 1032;

template <typename T> T load(const char *bytes)
{
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

Error damaged(const std::string &why, Error::Where where = Error::Where::current())
{
  return Error("model file must be a complete compiled model", why, "",
               "copy it again or make it again with kan-md deploy", where);
}

bool is_ascii(const std::string &text)
{
  return std::all_of(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x80; });
}

std::string read_at(std::ifstream &file, std::uint64_t file_size, std::uint64_t offset,
                    std::uint64_t size)
{
  if (offset > file_size || size > file_size - offset) throw damaged("a truncated or damaged file");
  std::string bytes(size, '\0');
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!file) throw damaged("a file that cannot be read to its end");
  return bytes;
}

// The bytes of the central directory, by the end record, which a comment of up to 64 KiB may follow.
std::string read_records(std::ifstream &file, std::uint64_t file_size)
{
  const std::uint64_t tail_size =
      std::min<std::uint64_t>(file_size, 65535 + END_SIZE + LOCATOR_SIZE);
  const std::string tail = read_at(file, file_size, file_size - tail_size, tail_size);
  if (tail_size < END_SIZE) throw damaged("a truncated file");
  for (std::size_t at = tail_size - END_SIZE + 1; at-- > 0;) {
    const char *record = tail.data() + at;
    if (load<std::uint32_t>(record) != END_RECORD) continue;
    std::uint64_t offset = load<std::uint32_t>(record + 16),
                  size = load<std::uint32_t>(record + 12);
    if (at >= LOCATOR_SIZE && load<std::uint32_t>(record - LOCATOR_SIZE) == ZIP64_LOCATOR) {
      const auto where = load<std::uint64_t>(record - LOCATOR_SIZE + 8);
      const std::string end64 = read_at(file, file_size, where, ZIP64_END_SIZE);
      if (load<std::uint32_t>(end64.data()) != ZIP64_END_RECORD)
        throw damaged("a damaged directory");
      offset = load<std::uint64_t>(end64.data() + 48);
      size = load<std::uint64_t>(end64.data() + 40);
    }
    return read_at(file, file_size, offset, size);
  }
  throw damaged("a truncated file");
}

// Fields that do not fit into 32 bits stand in an extra field, in this order: size, packed size.
std::uint64_t size_of(const char *header, const char *extra, const char *end)
{
  const auto size = load<std::uint32_t>(header + 24);
  if (size != IN_ZIP64) return size;
  while (extra + 4 <= end) {
    const auto length = load<std::uint16_t>(extra + 2);
    if (load<std::uint16_t>(extra) == ZIP64_EXTRA && length >= 8 && extra + 4 + length <= end)
      return load<std::uint64_t>(extra + 4);
    extra += 4 + length;
  }
  throw damaged("a damaged directory");
}

}    // namespace

std::vector<ZipEntry> read_zip_directory(const std::string &path)
{
  if (std::filesystem::is_directory(path))
    throw Error("model file must be a file", "the folder " + path, "",
                "name the file that kan-md deploy wrote");
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw Error("model file must be readable",
                (std::filesystem::exists(path) ? "no permission for " : "no such file as ") + path,
                "",
                is_ascii(path)
                    ? "check the path, which is relative to the present folder (command shell cd "
                      "changes it)"
                    : "name it in ASCII: LAMMPS changes other letters of its input");
  file.seekg(0, std::ios::end);
  const auto file_size = static_cast<std::uint64_t>(std::max<std::streamoff>(file.tellg(), 0));
  if (file_size == 0) throw damaged("an empty file");
  if (file_size < 4 || read_at(file, file_size, 0, 2) != "PK")
    throw Error("model file must be a compiled model", "a file that is not one (no zip archive)",
                "", "make one with kan-md deploy");

  std::vector<ZipEntry> entries;
  const std::string bytes = read_records(file, file_size);
  for (std::size_t at = 0; at < bytes.size();) {
    const char *header = bytes.data() + at;
    if (at + CENTRAL_SIZE > bytes.size() || load<std::uint32_t>(header) != CENTRAL_HEADER)
      throw damaged("a damaged directory");
    const auto name_size = load<std::uint16_t>(header + 28);
    const auto extra_size = load<std::uint16_t>(header + 30);
    const auto comment_size = load<std::uint16_t>(header + 32);
    const std::size_t total = CENTRAL_SIZE + name_size + extra_size + comment_size;
    if (at + total > bytes.size()) throw damaged("a damaged directory");
    const char *const extra = header + CENTRAL_SIZE + name_size;
    ZipEntry entry{std::string(header + CENTRAL_SIZE, name_size),
                   size_of(header, extra, extra + extra_size), load<std::uint32_t>(header + 16)};
    if (entry.size / MOST_COMPRESSION > file_size) throw damaged("a damaged directory");
    entries.push_back(std::move(entry));
    at += total;
  }
  if (entries.empty()) throw damaged("an empty archive");
  return entries;
}

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

}    // namespace kan_md
