// An accelerator for tests that lives in host memory: torch's device "privateuseone:0".
//
// It lets a machine without a GPU test code that keeps its data on one: values, streams, pinned
// memory, graphs (emulated_graph.h) and what the host has to wait for, which it counts. The numbers
// are those of torch's CPU kernels. As on CUDA, an operator takes tensors of one device only.
//
// Load it with torch.ops.load_library, dlopen or LD_PRELOAD. torch.ops.emulated_device.counters() and
// .reset() serve Python; a program that used the device appends its counters as a line of JSON to the
// file named by EMULATED_DEVICE_LOG when it exits.

#include "emulated_graph.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <map>

namespace emulated {

// ---- memory ------------------------------------------------------------------------------------

std::atomic<int64_t> allocated_bytes{0}, peak_bytes{0};

void release(void *memory)
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

DeviceMemory *const device_memory = new DeviceMemory;
PinnedMemory *const pinned_memory = new PinnedMemory;

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
  static void refuse_wait() { refuse_in_capture("synchronization", "the host waits for nothing"); }
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

// ---- tensors of both sides ---------------------------------------------------------------------

at::Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const at::Tensor &like)
{
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                         c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                      like.storage_offset());
  return tensor;
}

// A CPU tensor on the memory of a device tensor, which it keeps alive.
at::Tensor host_view(const at::Tensor &tensor)
{
  const c10::Storage &storage = tensor.storage();
  auto release_storage = [](void *context) { delete static_cast<c10::Storage *>(context); };
  c10::DataPtr memory(storage.mutable_data(), new c10::Storage(storage), release_storage,
                      c10::Device(c10::kCPU));
  c10::Storage host(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(memory),
                    c10::GetAllocator(c10::kCPU), /*resizable=*/true);
  return make_tensor(std::move(host), c10::DispatchKey::CPU, tensor);
}

// A new device tensor with the contents and the layout of a CPU tensor.
at::Tensor device_copy(const at::Tensor &tensor)
{
  const size_t bytes = tensor.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, device_memory->allocate(bytes),
                       device_memory, /*resizable=*/true);
  if (bytes) std::memcpy(storage.mutable_data(), tensor.storage().data(), bytes);
  return make_tensor(std::move(storage), c10::DispatchKey::PrivateUse1, tensor);
}

template <class Function> c10::IValue map_tensors(const c10::IValue &value, Function &&function)
{
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor &tensor : value.toTensorVector()) list.push_back(function(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto &tensor : value.toOptionalTensorVector())
      list.push_back(tensor ? std::optional(function(*tensor)) : std::nullopt);
    return list;
  }
  return value;
}

// ---- all operators but a few -------------------------------------------------------------------

// Whether the host has to know values on the device before it can return from the operator.
bool reads_values(const c10::OperatorHandle &op, const torch::jit::Stack &arguments)
{
  bool has_indices = false, has_mask = false, knows_size = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].isOptionalTensorList()) {
      has_indices = true;
      for (const auto &index : arguments[i].toOptionalTensorVector())
        has_mask |= index && index->defined() &&
                    (index->scalar_type() == at::kBool || index->scalar_type() == at::kByte);
    }
    knows_size |= op.schema().arguments()[i].name() == "output_size" && !arguments[i].isNone();
  }
  if (has_indices) return has_mask;
  return !knows_size &&
         (op.hasTag(at::Tag::dynamic_output_shape) || op.hasTag(at::Tag::data_dependent_output));
}

void check_argument(const c10::Argument &argument, const at::Tensor &tensor,
                    const std::string &name)
{
  const bool is_written = argument.alias_info() && argument.alias_info()->isWrite();
  TORCH_CHECK(tensor.device() == device || (tensor.is_cpu() && tensor.dim() == 0 && !is_written),
              "Expected all tensors to be on the same device, but found at least two devices, ",
              device, " and ", tensor.device(), " (argument ", argument.name(), " of ", name, ")");
}

// The value that a CPU scalar has now; a graph keeps it.
at::Tensor frozen(const at::Tensor &scalar)
{
  at::Tensor copy = scalar.clone();
  copy.unsafeGetTensorImpl()->set_wrapped_number(scalar.unsafeGetTensorImpl()->is_wrapped_number());
  return copy;
}

// What the CPU kernel gets for an operator's arguments: views of the memory of device tensors.
// visit: called with each device tensor and its view.
template <class Visitor>
torch::jit::Stack host_arguments(const torch::jit::Stack &arguments, Visitor &&visit)
{
  auto to_host = [&](const at::Tensor &tensor) {
    if (!tensor.defined()) return tensor;
    if (tensor.is_cpu()) return frozen(tensor);
    at::Tensor view = host_view(tensor);
    visit(tensor, view);
    return view;
  };
  torch::jit::Stack host;
  for (const c10::IValue &argument : arguments)
    host.push_back(argument.isDevice() ? c10::IValue(c10::Device(c10::kCPU))
                                       : map_tensors(argument, to_host));
  return host;
}

void run_on_host(const c10::OperatorHandle &op, torch::jit::Stack &stack)
{
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

struct Argument {
  at::Tensor tensor, view;
};

// A kernel that was given an output of the wrong size has resized the view of it.
void follow_resize(const Argument &argument)
{
  if (argument.view.sizes() == argument.tensor.sizes() &&
      argument.view.storage().data() == argument.tensor.storage().data())
    return;
  at::native::resize_(argument.tensor, argument.view.sizes());
  host_view(argument.tensor).copy_(argument.view);
}

// Record an operator that has run. results: its return values' tensors in order, undefined where
// one is an argument or a view of one.
void record_operator(const c10::OperatorHandle &op, const torch::jit::Stack &arguments,
                     const std::vector<at::Tensor> &results)
{
  Step step{toString(op.operator_name()), {}, {}};
  auto keep = [&](const at::Tensor &tensor, const at::Tensor &) {
    step.memory.emplace_back(tensor.storage(), tensor.storage().data());
  };
  const auto host = host_arguments(arguments, keep);
  std::vector<at::Tensor> places;
  for (const at::Tensor &result : results) {
    places.push_back(result.defined() ? host_view(result) : result);
    if (result.defined()) keep(result, result);
  }
  step.run = [op, host, places, name = step.name] {
    torch::jit::Stack stack = host;
    run_on_host(op, stack);
    size_t next = 0;
    for (const c10::IValue &value : stack)
      map_tensors(value, [&](const at::Tensor &tensor) {
        const at::Tensor &place = places[next++];
        if (!place.defined()) return tensor;
        TORCH_CHECK(tensor.sizes() == place.sizes(), name, " gives ", tensor.sizes(),
                    " at replay, and gave ", place.sizes(), " when it was captured");
        return place.copy_(tensor);
      });
  };
  record(std::move(step));
}

void run_operator(const c10::OperatorHandle &op, torch::jit::Stack *stack)
{
  const std::string name = toString(op.operator_name());
  const auto &schema_arguments = op.schema().arguments();
  const auto first = stack->end() - static_cast<std::ptrdiff_t>(schema_arguments.size());
  const torch::jit::Stack arguments(first, stack->end());
  stack->erase(first, stack->end());

  check_stream(name);
  if (reads_values(op, arguments)) {
    refuse_in_capture(name, "the host has to know values that are on the device");
    ++counters[ScalarReads];
  }
  for (size_t i = 0; i < arguments.size(); ++i)
    map_tensors(arguments[i], [&](const at::Tensor &tensor) {
      if (!tensor.defined()) return tensor;
      check_argument(schema_arguments[i], tensor, name);
      const auto *const alias = schema_arguments[i].alias_info();
      if (is_capturing && alias && alias->isWrite()) save_contents(tensor);
      return tensor;
    });

  std::vector<Argument> known;
  auto remember = [&](const auto &tensor, const auto &view) { known.push_back({tensor, view}); };
  torch::jit::Stack host = host_arguments(arguments, remember);
  std::vector<c10::StorageImpl *> storages;
  for (const Argument &argument : known)
    storages.push_back(argument.view.storage().unsafeGetStorageImpl());
  run_on_host(op, host);
  ++counters[Operators];
  for (const Argument &argument : known) follow_resize(argument);

  std::vector<at::Tensor> results;
  auto to_device = [&](const at::Tensor &output) {
    results.emplace_back();
    if (!output.defined()) return output;
    for (const Argument &argument : known)
      if (output.is_same(argument.view)) return argument.tensor;
    for (size_t i = 0; i < known.size(); ++i)
      if (output.storage().unsafeGetStorageImpl() == storages[i])
        return make_tensor(known[i].tensor.storage(), c10::DispatchKey::PrivateUse1, output);
    results.back() = device_copy(output);
    return results.back();
  };
  for (const c10::IValue &value : host) stack->push_back(map_tensors(value, to_device));
  if (is_capturing) record_operator(op, arguments, results);
}

// ---- operators with kernels of their own -------------------------------------------------------

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool> pin,
                 std::optional<at::MemoryFormat> format)
{
  TORCH_CHECK(!pin.value_or(false), "only memory of the host can be pinned");
  return at::detail::empty_generic(size, device_memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool> pin)
{
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
    refuse_in_capture(name, "replays would not repeat it; copy before or after");
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
  if (!path || peak_bytes == 0) return;
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
