// Runs torch's operators on the emulated device: the CPU kernel on views of the device's memory.

#pragma once

#include "memory.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/resize_native.h>

namespace emulated {

// ---- tensors of both sides ---------------------------------------------------------------------

inline at::Tensor make_tensor(c10::Storage storage, c10::DispatchKey key, const at::Tensor &like)
{
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                         c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                      like.storage_offset());
  return tensor;
}

// A CPU tensor on the memory of a device tensor, which it keeps alive.
inline at::Tensor host_view(const at::Tensor &tensor)
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
inline at::Tensor device_copy(const at::Tensor &tensor)
{
  const size_t bytes = tensor.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, device_memory->allocate(bytes),
                       device_memory, /*resizable=*/true);
  if (bytes) std::memcpy(storage.mutable_data(), tensor.storage().data(), bytes);
  return make_tensor(std::move(storage), c10::DispatchKey::PrivateUse1, tensor);
}

// Apply a function to an argument's tensors, alone or in a list, and return the argument with what
// it gives. Lists keep their element type, which kernels check.
template <class Function> c10::IValue map_tensors(const c10::IValue &value, Function &&function)
{
  if (value.isTensor()) return function(value.toTensor());
  if (!value.isList()) return value;
  const auto list = value.toList();
  const auto kind = list.elementType()->kind();
  if (kind != c10::TypeKind::TensorType && kind != c10::TypeKind::OptionalType) return value;
  c10::impl::GenericList mapped(list.elementType());
  for (const c10::IValue &element : list) mapped.push_back(map_tensors(element, function));
  return mapped;
}

// ---- all operators but a few -------------------------------------------------------------------

// Whether the host has to know values on the device before it can return from the operator: torch
// tags those, but says nothing of masks among indices.
inline bool reads_values(const c10::OperatorHandle &op, const torch::jit::Stack &arguments)
{
  for (size_t i = 0; i < arguments.size(); ++i) {
    const c10::IValue &value = arguments[i];
    const std::string &name = op.schema().arguments()[i].name();
    if (name == "output_size" && !value.isNone()) return false;
    if (name != "indices" || !value.isList()) continue;
    bool has_mask = false;
    map_tensors(value, [&](const at::Tensor &index) {
      has_mask |=
          index.defined() && (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte);
      return index;
    });
    return has_mask;
  }
  return op.hasTag(at::Tag::dynamic_output_shape) || op.hasTag(at::Tag::data_dependent_output);
}

inline void check_argument(const c10::Argument &argument, const at::Tensor &tensor,
                           const std::string &name)
{
  const bool is_written = argument.alias_info() && argument.alias_info()->isWrite();
  TORCH_CHECK(tensor.device() == device || (tensor.is_cpu() && tensor.dim() == 0 && !is_written),
              "Expected all tensors to be on the same device, but found at least two devices, ",
              device, " and ", tensor.device(), " (argument ", argument.name(), " of ", name, ")");
}

// The value that a CPU scalar has now; a graph keeps it.
inline at::Tensor frozen(const at::Tensor &scalar)
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

inline void run_on_host(const c10::OperatorHandle &op, torch::jit::Stack &stack)
{
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

struct Argument {
  at::Tensor tensor, view;
};

// A kernel that was given an output of the wrong size has resized the view of it.
inline void follow_resize(const Argument &argument)
{
  if (argument.view.sizes() == argument.tensor.sizes() &&
      argument.view.storage().data() == argument.tensor.storage().data())
    return;
  at::native::resize_(argument.tensor, argument.view.sizes());
  host_view(argument.tensor).copy_(argument.view);
}

// Record an operator that has run. results: its return values' tensors in order, undefined where
// one is an argument or a view of one.
inline void record_operator(const c10::OperatorHandle &op, const torch::jit::Stack &arguments,
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

inline void run_operator(const c10::OperatorHandle &op, torch::jit::Stack *stack)
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

}    // namespace emulated
