// Opens models through code linked into the same program: used where the sources are patched into a
// LAMMPS source tree. backend_loader.cpp is the other way.

#include "compiled_model.h"

namespace kan_md {

extern "C" CompiledModel *kan_md_open_model(const std::string &path, const DeviceRequest &request);

std::unique_ptr<CompiledModel> load_compiled_model(const std::string &path,
                                                   const DeviceRequest &request)
{
  return std::unique_ptr<CompiledModel>(kan_md_open_model(path, request));
}

}    // namespace kan_md
