// A compiled model behind one interface. No torch and no LAMMPS types appear here.

#pragma once

#include "exchange.h"
#include "graph.h"
#include "local_potential.h"
#include "manifest.h"
#include "resident.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace kan_md {

// A row-major float64 array on the host, owned by the model until its next run.
struct Array {
  const double *data = nullptr;
  std::vector<std::int64_t> shape;
};

struct DeviceRequest {
  std::string device = "auto";    // auto (the file's own) | cpu | cuda, or another that torch knows
  int local_rank = 0;             // rank among those of this node: picks the GPU
};

// Largest amounts so far on a GPU, bytes; zero on the CPU or where torch does not say.
struct DeviceMemory {
  std::int64_t peak_allocated = 0;    // by tensors
  std::int64_t peak_reserved = 0;     // by torch's allocator
};

class CompiledModel {
 public:
  virtual ~CompiledModel() = default;

  virtual const Manifest &manifest() const = 0;

  // Where it runs, for the line at start, e.g. "TorchScript on cpu".
  virtual std::string description() const = 0;

  // Evaluates the model. Outputs in the order of the contract: for a potential atomic_energy
  // [num_nodes, 1] and edge_forces [num_edges, 3]; for Convention::NODE_FORCES atomic_energy,
  // forces [num_nodes, 3], virial [3, 3]; for a tensor model those that the manifest lists.
  // Requires num_edges > 0, except where features are exchanged. Throws Error.
  virtual std::vector<Array> run(const Graph &graph) = 0;

  // Whether the file asks for features of other ranks' atoms between its layers.
  virtual bool can_exchange() const { return false; }

  // Such features come by `exchange` in later runs, which it must outlive; where it is null the model
  // computes them. Throws Error.
  virtual void set_exchange(const kan_md_exchange *) {}

  // The same model on atoms that move while their neighbour list stays, where it runs on a device of
  // its own. Borrows the model.
  virtual std::unique_ptr<ResidentModel> make_resident(Keep) { return nullptr; }

  // The same model on LAMMPS' neighbour list, where it is an operator that can do that. Throws Error.
  virtual std::unique_ptr<LocalPotential> make_local_potential() { return nullptr; }

  // Readies a file of many elements for some of them, indices into type_names: it makes tables of
  // their pairs. Other files have all that they need. Throws Error.
  virtual void choose_types(const std::vector<int> &) {}

  // Number of threads that the model's operators may use.
  virtual void set_num_threads(int num_threads) = 0;

  virtual DeviceMemory device_memory() const = 0;
};

// Opens a model file, whatever its extension: kan-md TorchScript or AOTInductor, or a file of
// nequip-compile. Loads libtorch at the first call. Throws Error.
std::unique_ptr<CompiledModel> load_compiled_model(const std::string &path,
                                                   const DeviceRequest &request);

}    // namespace kan_md
