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
  constexpr int large = 1 << 30;
  constexpr int largest_of_old_glibc = 32 << 20;
  const bool done =
      mallopt(M_MMAP_THRESHOLD, large) || mallopt(M_MMAP_THRESHOLD, largest_of_old_glibc);
  return mallopt(M_TRIM_THRESHOLD, large) && mallopt(M_TOP_PAD, 64 << 20) && done;
#else
  return false;
#endif
}

}    // namespace kan_md
