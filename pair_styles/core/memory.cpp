#include "memory.h"

#include "text.h"

#include <algorithm>
#include <fstream>
#include <iterator>

namespace kan_md {

namespace {

constexpr std::int64_t UNKNOWN = -1;

std::string content_of(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::int64_t bytes_in(const std::string &word)
{
  const auto number = number_in(word);
  return number && *number >= 0.0 && *number < 9e18 ? static_cast<std::int64_t>(*number) : UNKNOWN;
}

// The number behind `key` in a file of keys and numbers.
std::int64_t entry_of(const std::string &path, const std::string &key)
{
  const auto words = words_of(content_of(path));
  const auto found = std::find(words.begin(), words.end(), key);
  return found == words.end() || found + 1 == words.end() ? UNKNOWN : bytes_in(found[1]);
}

// A file of one number; no limit is the word max, or a number that no memory has.
std::int64_t number_of(const std::string &path)
{
  const auto words = words_of(content_of(path));
  return words.size() == 1 ? bytes_in(words[0]) : UNKNOWN;
}

// What the groups from `group` up to the root of their tree leave.
std::int64_t left_by_groups(const std::string &tree, std::string group, const char *limit_name,
                            const char *usage_name, const char *cache_name)
{
  std::int64_t left = UNKNOWN;
  for (;;) {
    while (!group.empty() && group.back() == '/') group.pop_back();
    const std::string folder = tree + group + "/";
    const std::int64_t limit = number_of(folder + limit_name);
    const std::int64_t usage = number_of(folder + usage_name);
    if (limit != UNKNOWN && usage != UNKNOWN) {
      // Pages of files that nobody uses are given up before memory runs out.
      const std::int64_t cache =
          std::max<std::int64_t>(0, entry_of(folder + "memory.stat", cache_name));
      const std::int64_t here = std::max<std::int64_t>(0, limit - usage + cache);
      left = left == UNKNOWN ? here : std::min(left, here);
    }
    if (group.empty()) return left;
    group.resize(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
  }
}

// Lines ID:CONTROLLERS:GROUP; see cgroups(7). Version 2 has one line, without controllers.
std::int64_t left_by_control_groups(const std::string &root)
{
  std::int64_t left = UNKNOWN;
  for (const std::string &line : words_of(content_of(root + "/proc/self/cgroup"), "\n")) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    std::int64_t here = UNKNOWN;
    if (controllers == ",,")
      here = left_by_groups(root + "/sys/fs/cgroup", group, "memory.max", "memory.current",
                            "inactive_file");
    else if (controllers.find(",memory,") != std::string::npos)
      here = left_by_groups(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                            "memory.usage_in_bytes", "total_inactive_file");
    if (here != UNKNOWN) left = left == UNKNOWN ? here : std::min(left, here);
  }
  return left;
}

}    // namespace

std::int64_t resident_bytes()
{
  return std::max<std::int64_t>(0, 1024 * entry_of("/proc/self/status", "VmRSS:"));
}

std::int64_t available_bytes(const std::string &root)
{
  const std::int64_t free = entry_of(root + "/proc/meminfo", "MemAvailable:");
  const std::int64_t allowed = left_by_control_groups(root);
  if (free == UNKNOWN) return std::max<std::int64_t>(0, allowed);
  return allowed == UNKNOWN ? 1024 * free : std::min(1024 * free, allowed);
}

}    // namespace kan_md
