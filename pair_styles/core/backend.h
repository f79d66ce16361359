// What the pieces of the torch side share: the only header that mentions torch.

#pragma once

#include "archive.h"
#include "compiled_model.h"
#include "error.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kan_md {

std::unique_ptr<CompiledModel> open_torchscript(const Archive &archive, const Manifest &manifest,
                                                const DeviceRequest &request);
std::unique_ptr<CompiledModel> open_aotinductor(const Archive &archive, const Manifest &manifest,
                                                const DeviceRequest &request);
std::unique_ptr<CompiledModel> open_upstream_torchscript(const Archive &archive,
                                                         const DeviceRequest &request);
std::unique_ptr<CompiledModel> open_upstream_aotinductor(const Archive &archive,
                                                         const DeviceRequest &request);

// The device to run on: the file's own, unless the user asked for another. A GPU is chosen by the
// rank's number on its node. Throws Error where there is none.
c10::Device choose_device(const std::string &file_device, const DeviceRequest &request);

bool gpu_available();

// Loads the library of kan-md's own operators, with kernels for this processor. Throws Error where there
// is none.
void require_operator_library();

// A function of that library or of its kernels; null where there is none.
void *find_in_operator_library(const std::string &symbol);

// Whether a file has the operator kan_md::exchange.
bool calls_exchange(const Manifest &manifest);

// Features of ghosts come by `exchange`, or are computed where it is null, while this lives.
class ExchangeScope {
 public:
  explicit ExchangeScope(const kan_md_exchange *exchange);
  ~ExchangeScope();
  ExchangeScope(const ExchangeScope &) = delete;
  ExchangeScope &operator=(const ExchangeScope &) = delete;

 private:
  kan_md_set_exchange_function *set_ = nullptr;
};

// Says what the manifest asks for, whatever the environment says.
void allow_tf32(bool allowed);

DeviceMemory device_memory_of(c10::Device device);

// Intra-operator threads of torch.
void set_torch_threads(int num_threads);

// What torch says went wrong, without its code before it and its backtrace behind it.
std::string message_of(const std::exception &error);

// Throws std::bad_alloc where memory ran out, else Error.
[[noreturn]] void throw_translated(const std::string &doing, const std::exception &error,
                                   Error::Where where);

// Runs `body`, turning what torch throws (TorchScript throws plain exceptions) into our own.
template <typename Body>
auto translate_torch_errors(const std::string &doing, Body &&body,
                            Error::Where where = Error::Where::current())
{
  try {
    return body();
  } catch (const Error &) {
    throw;
  } catch (const std::exception &error) {
    throw_translated(doing, error, where);
  }
}

// The graph as tensors on `device`. The memory stays the graph's where the device is the CPU.
struct GraphTensors {
  at::Tensor edge_vectors, edge_index, atom_types, num_local, positions;
};

GraphTensors to_tensors(const Graph &graph, c10::Device device);

// A graph that never has fewer than two nodes and edges, for programs that were compiled for "two or
// more": the added pair of nodes owns no energy and is out of each other's reach.
const Graph &padded(const Graph &graph, double r_max, Graph &storage);

// Copies model outputs to the host as float64 and remembers them.
class OutputStore {
 public:
  Array keep(const at::Tensor &tensor);
  void clear() { tensors_.clear(); }

 private:
  std::vector<at::Tensor> tensors_;
};

// The contract's function: its four inputs to energies and edge forces, on one device.
using Forward = std::function<std::pair<at::Tensor, at::Tensor>(const std::vector<at::Tensor> &)>;

// Nothing where there is nothing to keep: on the CPU, or for files of nequip-compile.
std::unique_ptr<ResidentModel> make_resident(Forward forward, const Manifest &manifest,
                                             c10::Device device, Keep keep);

// ---- files of nequip-compile -------------------------------------------------------------------

using Metadata = std::map<std::string, std::string>;

// The words of one entry; none where it is not there.
std::vector<std::string> words_of(const Metadata &metadata, const std::string &key);

// What such a file says of itself; learn_from_probes adds what it does not say.
Manifest upstream_manifest(const Metadata &metadata, const std::string &backend);

// Finds the energy of each isolated atom, and whether messages pass between atoms: whether an atom's
// energy changes with the neighbour of its neighbour.
void learn_from_probes(CompiledModel &model, const Archive &archive, Manifest &manifest);

// Inputs of nequip-compile's models. The cell is the unit matrix and edge_cell_shift the vector from
// the node to the image in Å, so that edge vectors come out right without knowing the lattice.
struct UpstreamInputs {
  at::Tensor pos, edge_index, atom_types, cell, edge_cell_shift;
};

UpstreamInputs upstream_inputs(const Graph &graph, c10::Device device);

}    // namespace kan_md
