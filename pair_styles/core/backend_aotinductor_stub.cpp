// Stands in for backend_aotinductor.cpp where torch comes without AOTInductor's package loader.

#include "backend.h"

namespace kan_md {

namespace {

[[noreturn]] void refuse()
{
  throw Error("AOTInductor files need a torch with its package loader", "a torch without", "",
              "deploy the model with --backend torchscript, or install torch >= 2.6");
}

}    // namespace

std::unique_ptr<CompiledModel> open_aotinductor(const Archive &, const Manifest &,
                                                const DeviceRequest &)
{
  refuse();
}

std::unique_ptr<CompiledModel> open_upstream_aotinductor(const Archive &, const DeviceRequest &)
{
  refuse();
}

}    // namespace kan_md
