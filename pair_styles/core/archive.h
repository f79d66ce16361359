// A model file opened for inspection: its directory by zip_directory.h, its contents by torch.

#pragma once

#include "zip_directory.h"

#include <memory>
#include <string>
#include <vector>

namespace kan_md {

class Archive {
 public:
  // Reads the directory of the archive, see read_zip_directory.
  explicit Archive(const std::string &path);
  ~Archive();

  const std::string &path() const { return path_; }

  // Names of all entries, in file order.
  std::vector<std::string> names() const;

  // Full name of the first entry that ends in `suffix`, or an empty string.
  std::string find(const std::string &suffix) const;

  // Whether an entry's name contains `part`.
  bool contains(const std::string &part) const;

  // Whether the bytes of an entry whose name contains `name_part` contain `text`.
  bool mentions(const std::string &name_part, const std::string &text) const;

  // Content of the entry `name`, which must exist; anything where it is damaged, see verify.
  std::string read(const std::string &name) const;

  // Compares the checksum of every entry with its content.
  // Throws Error naming the first entry that was altered.
  void verify() const;

 private:
  struct Reader;

  std::string path_;
  std::vector<ZipEntry> entries_;
  std::unique_ptr<Reader> reader_;
};

}    // namespace kan_md
