// Opens models through a library that is loaded when the first model is: LAMMPS starts without
// waiting for libtorch, and inputs that use another pair style never load it.

#include "compiled_model.h"
#include "error.h"

#include <dlfcn.h>

namespace kan_md {

namespace {

using OpenModel = CompiledModel *(*)(const std::string &, const DeviceRequest &);

OpenModel find_opener()
{
  Dl_info here;
  dladdr(reinterpret_cast<const void *>(&load_compiled_model), &here);
  std::string path = here.dli_fname ? here.dli_fname : "";
  path = path.substr(0, path.find_last_of('/') + 1) + "libkan_md_backend.so";
  void *const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw Error("libtorch must load", dlerror(), "",
                "run kan-md build again with the torch that you want to use");
  return reinterpret_cast<OpenModel>(dlsym(library, "kan_md_open_model"));
}

}    // namespace

std::unique_ptr<CompiledModel> load_compiled_model(const std::string &path,
                                                   const DeviceRequest &request)
{
  static const OpenModel open = find_opener();
  return std::unique_ptr<CompiledModel>(open(path, request));
}

}    // namespace kan_md
