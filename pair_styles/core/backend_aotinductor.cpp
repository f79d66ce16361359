// The only file of the plug-in that knows AOTInductor.

#include "backend.h"

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <c10/core/InferenceMode.h>

namespace kan_md {

namespace {

using torch::inductor::AOTIModelPackageLoader;

const std::string MODEL_NAME = "model";

// One thread calls a model, and without locks and events its calls can be captured by a graph.
constexpr bool RUN_SINGLE_THREADED = true;
constexpr std::size_t NUM_RUNNERS = 1;

std::unique_ptr<AOTIModelPackageLoader> load_package(const Archive &archive, c10::Device device)
{
  return translate_torch_errors("loading the AOTInductor model", [&] {
    return std::make_unique<AOTIModelPackageLoader>(archive.path(), MODEL_NAME, RUN_SINGLE_THREADED,
                                                    NUM_RUNNERS,
                                                    device.has_index() ? device.index() : -1);
  });
}

void refuse_other_device(const std::string &file_device, const DeviceRequest &request)
{
  if (request.device != "auto" && file_device.rfind(request.device, 0) != 0)
    throw Error("device of an AOTInductor file is fixed when it is compiled; keyword device",
                request.device, file_device, "deploy the model with --device " + request.device);
}

class AOTInductorModel final : public CompiledModel {
 public:
  AOTInductorModel(const Archive &archive, const Manifest &manifest, const DeviceRequest &request) :
      manifest_(manifest), device_(choose_device(manifest.device, request))
  {
    refuse_other_device(manifest.device, request);
    allow_tf32(manifest.tf32);
    loader_ = load_package(archive, device_);
  }

  const Manifest &manifest() const override { return manifest_; }
  std::string description() const override { return "AOTInductor on " + device_.str(); }
  void set_num_threads(int num_threads) override { set_torch_threads(num_threads); }
  DeviceMemory device_memory() const override { return device_memory_of(device_); }

  std::vector<Array> run(const Graph &graph) override
  {
    return translate_torch_errors("evaluating the model", [&] {
      const Graph &input = padded(graph, manifest_.r_max, padding_);
      const GraphTensors t = to_tensors(input, device_);
      const ExchangeScope scope(exchange_);
      const auto results = loader_->run({t.edge_vectors, t.edge_index, t.atom_types, t.num_local});
      store_.clear();
      std::vector<Array> outputs;
      for (const at::Tensor &result : results)
        outputs.push_back(trim(store_.keep(result), graph, input));
      return outputs;
    });
  }

  bool can_exchange() const override { return calls_exchange(manifest_); }
  void set_exchange(const kan_md_exchange *exchange) override { exchange_ = exchange; }

  std::unique_ptr<ResidentModel> make_resident(Keep keep) override
  {
    auto forward = [this](const std::vector<at::Tensor> &inputs) {
      const auto outputs = loader_->run(inputs);
      return std::make_pair(outputs.at(0), outputs.at(1));
    };
    return kan_md::make_resident(forward, manifest_, device_, keep);
  }

 private:
  // Padding is at the end of nodes; its edges are the last of their rows.
  static Array trim(Array array, const Graph &graph, const Graph &input)
  {
    if (&graph == &input || array.shape.empty()) return array;
    if (array.shape[0] == input.num_nodes)
      array.shape[0] = graph.num_nodes;
    else if (array.shape[0] == input.num_edges)
      array.shape[0] = graph.num_edges;
    return array;
  }

  Manifest manifest_;
  c10::Device device_;
  std::unique_ptr<AOTIModelPackageLoader> loader_;
  const kan_md_exchange *exchange_ = nullptr;
  OutputStore store_;
  Graph padding_;
};

// ---- files of nequip-compile --mode aotinductor ------------------------------------------------

class UpstreamAOTInductorModel final : public CompiledModel {
 public:
  UpstreamAOTInductorModel(const Archive &archive, const DeviceRequest &request) :
      device_(c10::kCPU)
  {
    const auto raw = translate_torch_errors("reading the model's metadata", [&] {
      return AOTIModelPackageLoader::load_metadata_from_package(archive.path(), MODEL_NAME);
    });
    const Metadata metadata(raw.begin(), raw.end());
    manifest_ = upstream_manifest(metadata, "aotinductor");
    const auto device = metadata.find("AOTI_DEVICE_KEY");
    manifest_.device = device == metadata.end() ? "cpu" : device->second;
    refuse_other_device(manifest_.device, request);
    device_ = choose_device(manifest_.device, request);
    input_names_ = words_of(metadata, "nequip_aoti_inputs");
    output_names_ = words_of(metadata, "nequip_aoti_outputs");
    for (const char *name : {"atomic_energy", "forces", "virial"}) position_of(name);
    loader_ = load_package(archive, device_);
    learn_from_probes(*this, archive, manifest_);
  }

  const Manifest &manifest() const override { return manifest_; }
  std::string description() const override
  {
    return "AOTInductor of nequip-compile on " + device_.str();
  }
  void set_num_threads(int num_threads) override { set_torch_threads(num_threads); }
  DeviceMemory device_memory() const override { return device_memory_of(device_); }

  std::vector<Array> run(const Graph &graph) override
  {
    return translate_torch_errors("evaluating the model", [&] {
      const UpstreamInputs in = upstream_inputs(padded(graph, manifest_.r_max, padding_), device_);
      std::vector<at::Tensor> inputs;
      for (const std::string &name : input_names_) inputs.push_back(input(in, name));
      const auto results = loader_->run(inputs);
      store_.clear();
      return std::vector<Array>{store_.keep(results.at(position_of("atomic_energy"))),
                                store_.keep(results.at(position_of("forces"))),
                                store_.keep(results.at(position_of("virial")).reshape({3, 3}))};
    });
  }

 private:
  static at::Tensor input(const UpstreamInputs &in, const std::string &name)
  {
    if (name == "pos") return in.pos;
    if (name == "edge_index") return in.edge_index;
    if (name == "atom_types") return in.atom_types;
    if (name == "cell") return in.cell;
    if (name == "edge_cell_shift") return in.edge_cell_shift;
    throw Error("inputs of a file of nequip-compile", name,
                "pos, edge_index, atom_types, cell, edge_cell_shift",
                "compile it again with nequip-compile --target pair_nequip");
  }

  std::size_t position_of(const std::string &name) const
  {
    for (std::size_t k = 0; k < output_names_.size(); ++k)
      if (output_names_[k] == name) return k;
    throw Error("outputs of a file of nequip-compile must include " + name, "none", "",
                "compile it again with nequip-compile --target pair_nequip");
  }

  Manifest manifest_;
  c10::Device device_;
  std::vector<std::string> input_names_, output_names_;
  std::unique_ptr<AOTIModelPackageLoader> loader_;
  OutputStore store_;
  Graph padding_;
};

}    // namespace

std::unique_ptr<CompiledModel> open_aotinductor(const Archive &archive, const Manifest &manifest,
                                                const DeviceRequest &request)
{
  return std::make_unique<AOTInductorModel>(archive, manifest, request);
}

std::unique_ptr<CompiledModel> open_upstream_aotinductor(const Archive &archive,
                                                         const DeviceRequest &request)
{
  return std::make_unique<UpstreamAOTInductorModel>(archive, request);
}

}    // namespace kan_md
