// Chooses the kernels that fit this processor and loads them, when libkan_md_ops itself is loaded.
//
// Every level of KAN_MD_LEVELS (best first) is a library beside this one. The names are those of the
// x86-64 psABI; a level has all that a compiler's -march= of its name uses. This file is compiled for
// any processor.

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

namespace kan_md::ops {
namespace {

bool processor_has(const std::string &level)
{
#if defined(__x86_64__)
  __builtin_cpu_init();
  // lzcnt, movbe and f16c of v3 came with or before these in every processor.
  const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
                  __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (level == "x86-64-v4") return v4;
  if (level == "x86-64-v3") return v3;
  if (level == "x86-64-v2") return v2;
#endif
  return true;    // the one level of another architecture
}

// Best first.
std::vector<std::string> levels_of_processor()
{
  std::vector<std::string> found;
  const std::string all = KAN_MD_LEVELS;
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find(' ', begin), all.size());
    const std::string level = all.substr(begin, end - begin);
    if (processor_has(level)) found.push_back(level);
    begin = end + 1;
  }
  return found;
}

struct Kernels {
  std::string level, failure;
  void *library = nullptr;
};

std::string choose_level(std::string &failure)
{
  const std::vector<std::string> levels = levels_of_processor();
  std::string names;
  for (const std::string &level : levels) names += (names.empty() ? "" : ", ") + level;
  if (levels.empty()) {
    failure = "operators must be built for this processor, got those for " KAN_MD_LEVELS
              ", which is newer; run: kan-md build --levels all; or deploy models with --portable, "
              "which need no operators";
    return "";
  }
  const char *const wanted = std::getenv("KAN_MD_CPU");
  if (!wanted || !*wanted) return levels.front();
  for (const std::string &level : levels)
    if (level == wanted) return level;
  failure = std::string("KAN_MD_CPU must be a level of this processor, got ") + wanted +
            "; allowed: " + names + "; unset it for the best one";
  return "";
}

const Kernels &kernels()
{
  static const Kernels loaded = [] {
    Kernels k;
    k.level = choose_level(k.failure);
    if (k.level.empty()) return k;
    Dl_info here;
    dladdr(reinterpret_cast<const void *>(&choose_level), &here);
    std::string path = here.dli_fname ? here.dli_fname : "";
    path = path.substr(0, path.find_last_of('/') + 1) + "libkan_md_kernels-" + k.level + ".so";
    k.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!k.library)
      k.failure = std::string("operators need their kernels, got ") + dlerror() +
                  "; run: kan-md build --force";
    return k;
  }();
  return loaded;
}

// An operator without a kernel would be told by torch, without a reason; who loads asks for it.
[[maybe_unused]] const Kernels &at_load = kernels();

}    // namespace

// Why there are no kernels, and what to do; null where they are registered.
extern "C" const char *kan_md_kernels_failure()
{
  return kernels().failure.empty() ? nullptr : kernels().failure.c_str();
}

// The level of those that are loaded.
extern "C" const char *kan_md_kernels_level()
{
  return kernels().level.c_str();
}

// A function of theirs by its name; null where there is none.
extern "C" void *kan_md_find_kernel(const char *symbol)
{
  return kernels().library ? dlsym(kernels().library, symbol) : nullptr;
}

}    // namespace kan_md::ops
