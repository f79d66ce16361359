// Put before MPI's own by LD_PRELOAD: a rank that waits sleeps instead of asking for its turn over and
// over, which would count as processor time.

#include <time.h>

extern "C" int sched_yield()
{
  const timespec pause = {0, 50'000};
  return nanosleep(&pause, nullptr);
}
