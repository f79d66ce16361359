// For a torch whose allocators cannot be asked without its CUDA headers.

#include "backend.h"

namespace kan_md {

DeviceMemory device_memory_of(c10::Device)
{
  return {};
}

}    // namespace kan_md
