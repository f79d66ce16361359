// Decides what a model file is by its content, and opens it.

#include "backend.h"
#include "contract.h"
#include "seal.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

namespace kan_md {

namespace {

void load_operator_library(const Archive &archive, const Manifest &manifest,
                           const DeviceRequest &request)
{
  // Files of before do not say which operators they call.
  const bool needed = manifest.operators ? !manifest.operators->empty()
                                         : archive.mentions("code/", "ops.kan_md.") ||
                                               archive.mentions("data/aotinductor/", "kan_md::");
  if (!needed) return;
  const c10::Device device = choose_device(manifest.device, request);
  if (!device.is_cpu())
    throw Error("operators that this file calls are for processors; device", device.str(), "cpu",
                "deploy the model with --static-shapes, or with --device cuda");
  require_operator_library();
  for (const std::string &name : manifest.operators.value_or(std::vector<std::string>()))
    if (!c10::Dispatcher::singleton().findSchema({name, ""}))
      throw Error("model file calls an operator that this build does not have", name, "",
                  "install the kan-md that made the file and run kan-md build --force, or deploy "
                  "the model with --portable");
}

void refuse_other_files(const Archive &archive)
{
  const bool torchscript = archive.contains("/code/") || archive.contains("/constants.pkl");
  const bool package = archive.contains("data/aotinductor/");
  if (archive.contains("/code/__torch__/mace/"))
    throw Error("model file must be of kan-md deploy or nequip-compile",
                "a file of mace_create_lammps_model", "",
                "run kan-md convert on the .model file it was made from, then kan-md deploy");
  if (!torchscript && !package)
    throw Error("model file must be a compiled model",
                archive.contains("data.pkl") ? "a checkpoint (torch.save) that is not compiled"
                                             : "a zip archive of another kind",
                "", "make one with kan-md deploy");
}

}    // namespace

// Found by name where this is a library of its own.
extern "C" CompiledModel *kan_md_open_model(const std::string &path, const DeviceRequest &request)
{
  const Archive archive(path);
  const std::string key(contract::manifest_key);
  std::string entry = archive.find("/" + key);
  if (entry.empty()) entry = archive.find(key);
  if (entry.empty()) {
    refuse_other_files(archive);
    archive.verify();
    return (archive.contains("data/aotinductor/") ? open_upstream_aotinductor(archive, request)
                                                  : open_upstream_torchscript(archive, request))
        .release();
  }
  check_seal(archive);
  const Manifest manifest = Manifest::from_text(archive.read(entry));
  load_operator_library(archive, manifest, request);
  return (manifest.backend == "aotinductor" ? open_aotinductor(archive, manifest, request)
                                            : open_torchscript(archive, manifest, request))
      .release();
}

}    // namespace kan_md
