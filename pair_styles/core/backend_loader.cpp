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
  if (!library) {
    const std::string said = dlerror();
    const bool no_memory = said.find("failed to map segment") != std::string::npos ||
                           said.find("annot allocate memory") != std::string::npos;
    throw Error("libtorch must load", said, "",
                no_memory ? "raise the limit of memory (ulimit -v, the queue's), of which libtorch "
                            "takes about 1 GB of addresses"
                          : "run kan-md build again with the torch that you want to use");
  }
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
