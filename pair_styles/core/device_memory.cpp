// Peak memory of torch's allocator on a GPU; device_memory_stub.cpp stands in for torch < 2.9.

#include "backend.h"

#include <c10/core/CachingDeviceAllocator.h>

namespace kan_md {

DeviceMemory device_memory_of(c10::Device device)
{
  if (device.is_cpu()) return {};
  return translate_torch_errors("asking for the memory in use", [&] {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    const auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return DeviceMemory{stats.allocated_bytes[all].peak, stats.reserved_bytes[all].peak};
  });
}

}    // namespace kan_md
