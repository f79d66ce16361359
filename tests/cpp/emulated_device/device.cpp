// An accelerator for tests that lives in host memory: torch's device "privateuseone:0".
//
// It lets a machine without a GPU test code that keeps its data on one: values, streams, pinned
// memory, graphs (graph.h) and what the host has to wait for, which it counts. The numbers are those
// of torch's CPU kernels. As on CUDA, an operator takes tensors of one device only; indices of the
// host, which CUDA copies unasked, are refused too.
//
// Load it with torch.ops.load_library, dlopen or LD_PRELOAD. In Python there are
// torch.ops.emulated_device.counters() and .reset(). A program that used the device appends its
// counters as a line of JSON to the file named by EMULATED_DEVICE_LOG when it exits.

#include "operators.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace emulated {

// ---- device, streams, events -------------------------------------------------------------------

constexpr c10::StreamId num_pool_streams = 4;

void check_device(c10::Device wanted)
{
  TORCH_CHECK(wanted.index() <= 0, "there is one emulated device, got ", wanted);
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  using Time = std::chrono::steady_clock::time_point;

  c10::DeviceType type() const override { return device.type(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device wanted) const override { check_device(wanted); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Device exchangeDevice(c10::Device wanted) const override
  {
    check_device(wanted);
    return device;
  }

  c10::Stream getStream(c10::Device) const override { return stream(current_stream); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override
  {
    static std::atomic<c10::StreamId> next{0};
    return stream(1 + next++ % num_pool_streams);
  }
  c10::Stream getNewStream(c10::Device, int) const override
  {
    static std::atomic<c10::StreamId> next{num_pool_streams + 1};
    return stream(next++);
  }
  c10::Stream exchangeStream(c10::Stream wanted) const override
  {
    return stream(std::exchange(current_stream, wanted.id()));
  }
  bool isStreamCapturing(const c10::Stream &asked) const override
  {
    const std::lock_guard lock(capture_mutex);
    return *running && (*running)->stream == asked.id();
  }

  // All work is done when its call returns; a captured stream cannot be waited for.
  bool queryStream(const c10::Stream &) const override { return refuse_wait(), true; }
  void synchronizeStream(const c10::Stream &) const override { refuse_wait(); }
  void synchronizeDevice(c10::DeviceIndex) const override { refuse_wait(); }
  void synchronizeEvent(void *) const override { refuse_wait(); }
  bool queryEvent(void *) const override { return refuse_wait(), true; }
  void block(void *, const c10::Stream &) const override {}
  void record(void **event, const c10::Stream &, c10::DeviceIndex, c10::EventFlag) const override
  {
    if (!*event) *event = new Time;
    *static_cast<Time *>(*event) = std::chrono::steady_clock::now();
  }
  void destroyEvent(void *event, c10::DeviceIndex) const noexcept override
  {
    delete static_cast<Time *>(event);
  }
  double elapsedTime(void *from, void *to, c10::DeviceIndex) const override
  {
    const auto passed = *static_cast<Time *>(to) - *static_cast<Time *>(from);
    return std::chrono::duration<double, std::milli>(passed).count();
  }

 private:
  static c10::Stream stream(c10::StreamId id)
  {
    return c10::Stream(c10::Stream::UNSAFE, device, id);
  }
  static void refuse_wait()
  {
    refuse_in_capture("synchronization", "nothing runs that the host could wait for");
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchangeDevice(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override
  {
    check_device(c10::Device(device.type(), index));
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override
  {
    return exchangeDevice(index);
  }
  bool isPinnedPtr(const void *data) const override { return PinnedMemory::owns(data); }
  c10::Allocator *getPinnedMemoryAllocator() const override { return pinned_memory; }
  at::Device getDeviceFromPtr(void *) const override { return device; }
  void resizePrivateUse1Bytes(const c10::Storage &storage, size_t bytes) const override
  {
    auto memory = device_memory->allocate(bytes);
    const size_t kept = std::min(bytes, storage.nbytes());
    if (kept) std::memcpy(memory.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(memory));
    storage.set_nbytes(bytes);
  }
};

// ---- operators with kernels of their own -------------------------------------------------------

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> on, std::optional<bool> pin,
                 std::optional<at::MemoryFormat> format)
{
  check_device(on.value_or(device));
  TORCH_CHECK(!pin.value_or(false), "only memory of the host can be pinned");
  return at::detail::empty_generic(size, device_memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> on, std::optional<bool> pin)
{
  check_device(on.value_or(device));
  TORCH_CHECK(!pin.value_or(false), "only memory of the host can be pinned");
  return at::detail::empty_strided_generic(size, stride, device_memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor &from, const at::Tensor &to, bool)
{
  const bool is_transfer = from.is_cpu() || to.is_cpu();
  const std::string name = !is_transfer    ? "a copy on the device"
                           : from.is_cpu() ? "a copy from host to device"
                                           : "a copy from device to host";
  check_stream(name);
  if (is_transfer) {
    refuse_in_capture(name, "only copies on the device are repeated; copy before or after");
    if (to.numel() > 0) {
      ++counters[from.is_cpu() ? HostToDevice : DeviceToHost];
      counters[from.is_cpu() ? HostToDeviceBytes : DeviceToHostBytes] +=
          static_cast<int64_t>(to.nbytes());
    }
  } else {
    ++counters[Operators];
  }
  if (is_capturing) save_contents(to);
  const at::AutoDispatchBelowADInplaceOrView guard;
  const at::Tensor source = from.is_cpu() ? from : host_view(from);
  const at::Tensor target = to.is_cpu() ? to : host_view(to);
  target.copy_(source);
  if (is_capturing)
    record({"aten::copy_",
            {{from.storage(), from.storage().data()}, {to.storage(), to.storage().data()}},
            [source, target] { target.copy_(source); }});
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor &from, const at::Tensor &to)
{
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const at::Tensor &tensor)
{
  refuse_in_capture("item() (aten::_local_scalar_dense)", "the host would read a value");
  ++counters[ScalarReads];
  return host_view(tensor).item();
}

at::Tensor &set_empty(at::Tensor &tensor)
{
  c10::Storage storage(c10::Storage::use_byte_size_t(), 0, device_memory->allocate(0),
                       device_memory, /*resizable=*/true);
  return at::native::set_storage_cpu_(tensor, std::move(storage), 0, {0}, {});
}

void ignore_stream(at::Tensor &, c10::Stream)
{
}

// ---- registration ------------------------------------------------------------------------------

c10::Dict<std::string, int64_t> named_counters()
{
  c10::Dict<std::string, int64_t> named;
  for (size_t i = 0; i < NumCounters; ++i) named.insert(counter_names[i], counters[i].load());
  return named;
}

void reset_counters()
{
  for (auto &counter : counters) counter = 0;
}

void write_log()
{
  const char *const path = std::getenv("EMULATED_DEVICE_LOG");
  if (!path || !was_used) return;
  std::string line = "{";
  for (size_t i = 0; i < NumCounters; ++i)
    line += (i ? ", \"" : "\"") + std::string(counter_names[i]) +
            "\": " + std::to_string(counters[i].load());
  line += "}\n";
  if (std::FILE *const file = std::fopen(path, "a")) {
    std::fwrite(line.data(), 1, line.size(), file);
    std::fclose(file);
  }
}

const bool is_registered = [] {
  c10::SetAllocator(device.type(), device_memory);
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  // Under the name that it has: only a named device counts as the accelerator of torch.
  c10::register_privateuse1_backend("privateuseone");
  std::atexit(write_log);
  return true;
}();

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}    // namespace emulated

namespace at {
REGISTER_GRAPH_IMPL(PRIVATEUSEONE, emulated::Graph)
}

TORCH_LIBRARY(emulated_device, library)
{
  library.def("counters() -> Dict(str, int)", &emulated::named_counters);
  library.def("reset() -> ()", &emulated::reset_counters);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library)
{
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&emulated::run_operator>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library)
{
  library.impl("empty.memory_format", &emulated::empty);
  library.impl("empty_strided", &emulated::empty_strided);
  library.impl("_copy_from", &emulated::copy_from);
  library.impl("_copy_from_and_resize", &emulated::copy_from_and_resize);
  library.impl("_local_scalar_dense", &emulated::local_scalar);
  library.impl("record_stream", &emulated::ignore_stream);
  library.impl("set_", &emulated::set_empty);
  // These change shapes and places only, whatever memory a tensor has.
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("resize_", &at::native::resize_);
  library.impl("set_.source_Tensor", &at::native::set_tensor_);
  library.impl("set_.source_Storage", &at::native::set_);
  library.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
}
