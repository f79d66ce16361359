#include "backend.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/cuda.h>

#include <cctype>
#include <new>

namespace kan_md {

c10::Device choose_device(const std::string &file_device, const DeviceRequest &request)
{
  const std::string wanted = request.device == "auto" ? file_device : request.device;
  c10::DeviceType type = c10::kCPU;
  try {
    type = c10::Device(wanted).type();
  } catch (const c10::Error &) {    // rethrown as our own error
    throw Error("device of a model", wanted, "auto, cpu, cuda", "correct the pair_style command");
  }
  if (type == c10::kCPU) return c10::Device(type);
  const int count = translate_torch_errors("counting devices", [&] {
    return static_cast<int>(at::globalContext().getAcceleratorHooksInterface(type).deviceCount());
  });
  if (count == 0)
    throw Error("a model on device cuda needs an NVIDIA GPU that this torch can use", "none", "",
                "deploy the model with --device cpu, or install a CUDA build of torch and run "
                "kan-md build again");
  return c10::Device(type, static_cast<c10::DeviceIndex>(request.local_rank % count));
}

std::string message_of(const std::exception &error)
{
  const auto *const torch_error = dynamic_cast<const c10::Error *>(&error);
  std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  if (text.find("failed in the TorchScript interpreter") != std::string::npos) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
    text = text.substr(text.find_last_of('\n') + 1);
    const std::string prefix = "RuntimeError: ";
    return text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text;
  }
  return text.substr(0, text.find("\n\n"));
}

void throw_translated(const std::string &doing, const std::exception &error, Error::Where where)
{
  const std::string message = message_of(error);
  for (const char *said : {"bad_alloc", "out of memory", "can't allocate memory"})
    if (message.find(said) != std::string::npos) throw std::bad_alloc();
  throw Error("torch failed while " + doing + ": " + message, where);
}

bool gpu_available()
{
  return torch::cuda::device_count() > 0;
}

void allow_tf32(bool allowed)
{
  at::globalContext().setAllowTF32CuBLAS(allowed);
}

void set_torch_threads(int num_threads)
{
  if (at::get_num_threads() != num_threads) at::set_num_threads(num_threads);
}

GraphTensors to_tensors(const Graph &graph, c10::Device device)
{
  const auto f64 = at::TensorOptions().dtype(at::kDouble);
  const auto i64 = at::TensorOptions().dtype(at::kLong);
  // from_blob wants a mutable pointer; models do not write to their inputs.
  auto view = [](const auto &vector) {
    return const_cast<void *>(static_cast<const void *>(vector.data()));
  };
  GraphTensors t;
  t.edge_vectors = at::from_blob(view(graph.edge_vectors), {graph.num_edges, 3}, f64);
  t.edge_index = at::from_blob(view(graph.edge_index), {2, graph.num_edges}, i64);
  t.atom_types = at::from_blob(view(graph.atom_types), {graph.num_nodes}, i64);
  t.positions = at::from_blob(view(graph.positions), {graph.num_nodes, 3}, f64);
  t.num_local = at::full({1}, graph.num_local, i64);
  if (!device.is_cpu()) {
    t.edge_vectors = t.edge_vectors.to(device);
    t.edge_index = t.edge_index.to(device);
    t.atom_types = t.atom_types.to(device);
    t.positions = t.positions.to(device);
    t.num_local = t.num_local.to(device);
  }
  return t;
}

const Graph &padded(const Graph &graph, double r_max, Graph &storage)
{
  if (graph.num_edges >= 2 && graph.num_nodes >= 2) return graph;
  storage = graph;
  const std::int64_t a = graph.num_nodes, b = a + 1, edges = graph.num_edges;
  storage.num_nodes += 2;
  storage.num_edges += 2;
  storage.atom_types.insert(storage.atom_types.end(), {0, 0});
  const double far = 1.5 * r_max;
  storage.positions.insert(storage.positions.end(), {0.0, 0.0, 0.0, far, 0.0, 0.0});
  storage.edge_vectors.resize(3 * edges);
  storage.edge_vectors.insert(storage.edge_vectors.end(), {far, 0.0, 0.0, -far, 0.0, 0.0});
  storage.edge_index.assign(graph.edge_index.begin(), graph.edge_index.begin() + edges);
  storage.edge_index.insert(storage.edge_index.end(), {a, b});
  storage.edge_index.insert(storage.edge_index.end(), graph.edge_index.begin() + edges,
                            graph.edge_index.begin() + 2 * edges);
  storage.edge_index.insert(storage.edge_index.end(), {b, a});
  return storage;
}

Array OutputStore::keep(const at::Tensor &tensor)
{
  tensors_.push_back(tensor.detach().to(at::kCPU, at::kDouble).contiguous());
  const at::Tensor &kept = tensors_.back();
  return {kept.const_data_ptr<double>(), kept.sizes().vec()};
}

}    // namespace kan_md
