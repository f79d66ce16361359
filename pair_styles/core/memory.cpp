#include "memory.h"

#include <fstream>
#include <string>

namespace kan_md {

namespace {

// Entry `key` of a Linux status file, which counts in kB.
std::int64_t entry_of(const char *path, const std::string &key)
{
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    std::int64_t value = 0;
    if (word == key && file >> value) return 1024 * value;
  }
  return 0;
}

}    // namespace

std::int64_t resident_bytes()
{
  return entry_of("/proc/self/status", "VmRSS:");
}

std::int64_t available_bytes()
{
  return entry_of("/proc/meminfo", "MemAvailable:");
}

}    // namespace kan_md
