// Parallel regions that an exception can leave. One that leaves an OpenMP region by itself ends the
// program without a word. The operators in kan_md/ops use this too; it may be taken under the licence
// of either.

#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

namespace kan_md {

// Runs the phases one after the other on up to `num_threads` threads, each as phase(thread, threads)
// on every thread, and none before all threads are done with the one before. What a thread throws
// ends its phase there; the phases that follow are left out, and it is thrown again behind the region
// (where several throw, that of the first to do so).
template <typename... Phases> void in_parallel(int num_threads, Phases &&...phases)
{
  std::exception_ptr thrown;
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(num_threads)
  {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    std::size_t left = sizeof...(phases);
    const auto run = [&](auto &phase) {
      if (!failed.load(std::memory_order_relaxed)) {
        try {
          phase(thread, threads);
        } catch (...) {    // thrown again below
          if (!failed.exchange(true)) thrown = std::current_exception();
        }
      }
      if (--left > 0) {
#pragma omp barrier
      }
    };
    (run(phases), ...);
  }
  if (thrown) std::rethrow_exception(thrown);
}

// Calls body(begin, end) on each thread for its part of [0, count), all parts of about one size.
template <typename Body> void in_parallel_parts(int num_threads, std::int64_t count, Body &&body)
{
  in_parallel(num_threads, [&](int thread, int threads) {
    const std::int64_t begin = count * thread / threads, end = count * (thread + 1) / threads;
    if (begin < end) body(begin, end);
  });
}

}    // namespace kan_md
