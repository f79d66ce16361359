// The only file of the plug-in that knows TorchScript.

#include "backend.h"
#include "contract.h"
#include "text.h"

#include <torch/csrc/autograd/generated/variable_factories.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/codegen/fuser/interface.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

namespace kan_md {

namespace {

// The profiling executor specialises a graph after its first calls, so that the same positions would
// give other last bits at the third step than at the first, and a restart would not continue
// bit for bit. Without it every call runs the same code; the fuser for GPUs that comes with the other
// executor would compile kernels in the middle of a run. kan_md_deploy/torchscript.py has the same.
void use_one_executor_for_all_calls()
{
  torch::jit::getProfilingMode() = false;
  torch::jit::overrideCanFuseOnGPU(false);
}

torch::jit::Module load_module(const Archive &archive, c10::Device device,
                               torch::jit::ExtraFilesMap &extra)
{
  use_one_executor_for_all_calls();
  return translate_torch_errors("loading the TorchScript model", [&] {
    auto module = torch::jit::load(archive.path(), device, extra);
    module.eval();
    return module;
  });
}

class TorchScriptModel final : public CompiledModel {
 public:
  TorchScriptModel(const Archive &archive, const Manifest &manifest, const DeviceRequest &request) :
      manifest_(manifest), device_(choose_device(manifest.device, request))
  {
    allow_tf32(manifest.tf32);
    torch::jit::ExtraFilesMap extra;
    module_ = load_module(archive, device_, extra);
  }

  const Manifest &manifest() const override { return manifest_; }
  std::string description() const override { return "TorchScript on " + device_.str(); }
  void set_num_threads(int num_threads) override { set_torch_threads(num_threads); }
  DeviceMemory device_memory() const override { return device_memory_of(device_); }

  std::vector<Array> run(const Graph &graph) override
  {
    return translate_torch_errors("evaluating the model", [&] {
      const Graph &input = exchange_ ? padded(graph, manifest_.r_max, padding_) : graph;
      const GraphTensors t = to_tensors(input, device_);
      const ExchangeScope scope(exchange_);
      const c10::IValue result =
          module_.forward({t.edge_vectors, t.edge_index, t.atom_types, t.num_local});
      store_.clear();
      std::vector<Array> outputs;
      for (const c10::IValue &value : result.toTupleRef().elements())
        outputs.push_back(store_.keep(value.toTensor()));
      return outputs;
    });
  }

  bool can_exchange() const override { return calls_exchange(manifest_); }
  void set_exchange(const kan_md_exchange *exchange) override { exchange_ = exchange; }

  std::unique_ptr<ResidentModel> make_resident(Keep keep) override
  {
    auto forward = [this](const std::vector<at::Tensor> &inputs) {
      const c10::IValue result = module_.forward({inputs.begin(), inputs.end()});
      const auto &outputs = result.toTupleRef().elements();
      return std::make_pair(outputs.at(0).toTensor(), outputs.at(1).toTensor());
    };
    return kan_md::make_resident(forward, manifest_, device_, keep);
  }

  void choose_types(const std::vector<int> &types) override
  {
    const auto method = module_.find_method(std::string(contract::choice_method));
    if (!method) return;
    const double error = translate_torch_errors("making tables of the chosen elements", [&] {
      c10::List<std::int64_t> chosen;
      for (const int type : types) chosen.push_back(type);
      return (*method)({chosen}).toDouble();
    });
    if (!(error <= 1.0))
      throw Error("tables of the chosen elements must keep the bound of the file",
                  "errors of " + text_of(error) + " times the bound", "up to 1",
                  "deploy the model with a larger --bound");
  }

  std::unique_ptr<LocalPotential> make_local_potential() override
  {
    const auto method = module_.find_method(std::string(contract::lists_method));
    if (!method || !device_.is_cpu()) return nullptr;
    return translate_torch_errors("preparing the model for the neighbour list", [&] {
      const c10::IValue result = (*method)({});
      const auto &parts = result.toTupleRef().elements();
      std::string symbol = parts.at(0).toStringRef();    // kan_md::local_mace
      symbol.replace(symbol.find("::"), 2, "_") += "_on_lists";
      using Make =
          LocalPotential *(*)(const std::vector<at::Tensor> &, const std::vector<std::int64_t> &,
                              const std::vector<double> &, const std::vector<double> &);
      const auto make = reinterpret_cast<Make>(find_in_operator_library(symbol));
      if (!make) return std::unique_ptr<LocalPotential>();
      return std::unique_ptr<LocalPotential>(
          make(parts.at(1).toTensorVector(), parts.at(2).toIntVector(),
               parts.at(3).toDoubleVector(), parts.at(4).toDoubleVector()));
    });
  }

 private:
  Manifest manifest_;
  c10::Device device_;
  torch::jit::Module module_;
  const kan_md_exchange *exchange_ = nullptr;
  OutputStore store_;
  Graph padding_;
};

// ---- files of nequip-compile --mode torchscript ------------------------------------------------

class UpstreamTorchScriptModel final : public CompiledModel {
 public:
  UpstreamTorchScriptModel(const Archive &archive, const DeviceRequest &request) :
      device_(choose_device(gpu_available() ? "cuda" : "cpu", request))
  {
    torch::jit::ExtraFilesMap extra{
        {"r_max", ""}, {"type_names", ""}, {"model_dtype", ""}, {"per_edge_type_cutoff", ""}};
    module_ = load_module(archive, device_, extra);
    manifest_ = upstream_manifest({extra.begin(), extra.end()}, "torchscript");
    learn_from_probes(*this, archive, manifest_);
  }

  const Manifest &manifest() const override { return manifest_; }
  std::string description() const override
  {
    return "TorchScript of nequip-compile on " + device_.str();
  }
  void set_num_threads(int num_threads) override { set_torch_threads(num_threads); }
  DeviceMemory device_memory() const override { return device_memory_of(device_); }

  std::vector<Array> run(const Graph &graph) override
  {
    return translate_torch_errors("evaluating the model", [&] {
      const UpstreamInputs in = upstream_inputs(padded(graph, manifest_.r_max, padding_), device_);
      c10::Dict<std::string, at::Tensor> input;
      input.insert("pos", in.pos);
      input.insert("edge_index", in.edge_index);
      input.insert("atom_types", in.atom_types);
      input.insert("cell", in.cell);
      input.insert("edge_cell_shift", in.edge_cell_shift);
      const auto output = module_.forward({input}).toGenericDict();
      store_.clear();
      return std::vector<Array>{store_.keep(output.at("atomic_energy").toTensor()),
                                store_.keep(output.at("forces").toTensor()),
                                store_.keep(output.at("virial").toTensor().reshape({3, 3}))};
    });
  }

 private:
  Manifest manifest_;
  c10::Device device_;
  torch::jit::Module module_;
  OutputStore store_;
  Graph padding_;
};

}    // namespace

std::unique_ptr<CompiledModel> open_torchscript(const Archive &archive, const Manifest &manifest,
                                                const DeviceRequest &request)
{
  return std::make_unique<TorchScriptModel>(archive, manifest, request);
}

std::unique_ptr<CompiledModel> open_upstream_torchscript(const Archive &archive,
                                                         const DeviceRequest &request)
{
  return std::make_unique<UpstreamTorchScriptModel>(archive, request);
}

}    // namespace kan_md
