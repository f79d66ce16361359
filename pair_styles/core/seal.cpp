#include "seal.h"

#include "error.h"
#include "sha256.h"

#include <algorithm>
#include <vector>

namespace kan_md {

namespace {

const std::string SEAL_KEY = "kan_md_seal";

bool is_seal(const std::string &name)
{
  const auto slash = name.find_last_of('/');
  return name.substr(slash == std::string::npos ? 0 : slash + 1) == SEAL_KEY;
}

}    // namespace

void check_seal(const Archive &archive)
{
  std::vector<std::string> names = archive.names();
  std::sort(names.begin(), names.end());
  Sha256 digest;
  std::string found = "none";
  for (const std::string &name : names) {
    const std::string content = archive.read(name);
    if (is_seal(name)) {
      found = content;
      continue;
    }
    digest.add(name + '\0' + std::to_string(content.size()) + '\0');
    digest.add(content);
  }
  const std::string expected = digest.hex();
  if (found != expected)
    throw Error("model file was changed after it was deployed", "seal " + found.substr(0, 12),
                expected.substr(0, 12), "run kan-md deploy again");
}

}    // namespace kan_md
