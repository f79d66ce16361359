#include "archive.h"

#include "backend.h"

#include <caffe2/serialize/inline_container.h>

#include <algorithm>

namespace kan_md {

// torch's reader, which opens when the first content is asked for: it knows archives of its own only.
struct Archive::Reader {
  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> torchs;
};

namespace {

Error damaged(const std::string &why, Error::Where where = Error::Where::current())
{
  return Error("model file must be a complete compiled model", why, "",
               "copy it again or make it again with kan-md deploy", where);
}

bool ends_with(const std::string &text, const std::string &suffix)
{
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

}    // namespace

Archive::Archive(const std::string &path) :
    path_(path), entries_(read_zip_directory(path)), reader_(std::make_unique<Reader>())
{
}

Archive::~Archive() = default;

std::vector<std::string> Archive::names() const
{
  std::vector<std::string> names;
  for (const ZipEntry &entry : entries_) names.push_back(entry.name);
  return names;
}

std::string Archive::find(const std::string &suffix) const
{
  for (const ZipEntry &entry : entries_)
    if (ends_with(entry.name, suffix)) return entry.name;
  return {};
}

bool Archive::contains(const std::string &part) const
{
  return std::any_of(entries_.begin(), entries_.end(), [&](const ZipEntry &entry) {
    return entry.name.find(part) != std::string::npos;
  });
}

bool Archive::mentions(const std::string &name_part, const std::string &text) const
{
  return std::any_of(entries_.begin(), entries_.end(), [&](const ZipEntry &entry) {
    return entry.name.find(name_part) != std::string::npos &&
           read(entry.name).find(text) != std::string::npos;
  });
}

std::string Archive::read(const std::string &name) const
{
  using caffe2::serialize::PyTorchStreamReader;
  try {
    if (!reader_->torchs) reader_->torchs = std::make_unique<PyTorchStreamReader>(path_);
    // Records are named without the folder that all of them are in.
    const auto [data, size] = reader_->torchs->getRecord(name.substr(name.find('/') + 1));
    return {static_cast<const char *>(data.get()), size};
  } catch (const c10::Error &error) {
    const std::string message = message_of(error);
    throw damaged("an entry " + name + " that torch cannot read (" +
                  message.substr(0, message.find(". ")) + ")");
  }
}

void Archive::verify() const
{
  for (const ZipEntry &entry : entries_)
    if (crc32(read(entry.name)) != entry.crc)
      throw damaged("an altered file (checksum of " + entry.name + ")");
}

}    // namespace kan_md
