#include "allocator.h"

#include <cstdlib>
#include <cstring>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace kan_md {

bool tune_allocator()
{
#ifdef __GLIBC__
  const char *const choice = std::getenv("KAN_MD_MALLOC");
  if (choice && std::strcmp(choice, "system") == 0) return false;
  constexpr int threshold = 1 << 30;
  return mallopt(M_MMAP_THRESHOLD, threshold) && mallopt(M_TRIM_THRESHOLD, threshold) &&
      mallopt(M_TOP_PAD, 64 << 20);
#else
  return false;
#endif
}

}    // namespace kan_md
