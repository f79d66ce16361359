// Memory of the emulated device, which is the host's, and pinned memory of the host.

#pragma once

#include "graph.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <malloc.h>
#include <map>

namespace emulated {

inline std::atomic<int64_t> allocated_bytes{0}, peak_bytes{0};
inline std::atomic<bool> was_used{false};

inline void release(void *memory)
{
  if (!memory) return;
  note_release(memory);
  allocated_bytes -= static_cast<int64_t>(malloc_usable_size(memory));
  c10::free_cpu(memory);
}

class DeviceMemory final : public c10::DeviceAllocator {
 public:
  // Aligned as host memory is: the last bits of a product of matrices may depend on it.
  c10::DataPtr allocate(size_t bytes) override
  {
    void *const memory = bytes ? c10::alloc_cpu(bytes) : nullptr;
    was_used = true;
    if (memory) {
      note_allocation(memory, bytes);
      allocated_bytes += static_cast<int64_t>(malloc_usable_size(memory));
      peak_bytes = std::max(peak_bytes.load(), allocated_bytes.load());
    }
    return {memory, memory, &release, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void *to, const void *from, size_t bytes) const override
  {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr &, c10::Stream) override {}
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override { peak_bytes = allocated_bytes.load(); }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override
  {
    c10::CachingDeviceAllocator::DeviceStats stats;
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    for (auto *stat : {&stats.allocated_bytes[all], &stats.reserved_bytes[all]}) {
      stat->current = allocated_bytes;
      stat->peak = peak_bytes;
    }
    return stats;
  }
};

class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override
  {
    void *const memory = c10::alloc_cpu(std::max<size_t>(bytes, 1));
    const std::lock_guard lock(mutex());
    blocks()[static_cast<char *>(memory)] = std::max<size_t>(bytes, 1);
    return {memory, memory, &release_pinned, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release_pinned; }
  void copy_data(void *to, const void *from, size_t bytes) const override
  {
    default_copy_data(to, from, bytes);
  }

  static bool owns(const void *pointer)
  {
    const std::lock_guard lock(mutex());
    const auto *const place = static_cast<const char *>(pointer);
    auto after = blocks().upper_bound(place);
    if (after == blocks().begin()) return false;
    --after;
    return place < after->first + after->second;
  }

 private:
  static void release_pinned(void *memory)
  {
    {
      const std::lock_guard lock(mutex());
      blocks().erase(static_cast<char *>(memory));
    }
    c10::free_cpu(memory);
  }

  // Never destroyed: tensors may outlive static objects.
  static std::mutex &mutex()
  {
    static auto *const mutex = new std::mutex;
    return *mutex;
  }
  static std::map<const char *, size_t> &blocks()
  {
    static auto *const blocks = new std::map<const char *, size_t>;
    return *blocks;
  }
};

inline DeviceMemory *const device_memory = new DeviceMemory;
inline PinnedMemory *const pinned_memory = new PinnedMemory;

}    // namespace emulated
