// Operators of kan-md's own in a library beside this one, which registers them with torch when it is
// loaded, at the first call. operators_linked.cpp is the other way.

#include "backend.h"
#include "error.h"

#include <dlfcn.h>

#include <string>
#include <type_traits>

namespace kan_md {

namespace {

struct OperatorLibrary {
  void *handle = nullptr;
  const char *(*why_no_kernels)() = nullptr;
  void *(*find_kernel)(const char *) = nullptr;
  std::string failure;
};

const OperatorLibrary &operator_library()
{
  static const OperatorLibrary library = [] {
    Dl_info here;
    dladdr(reinterpret_cast<const void *>(&operator_library), &here);
    std::string path = here.dli_fname ? here.dli_fname : "";
    path = path.substr(0, path.find_last_of('/') + 1) + "libkan_md_ops.so";
    OperatorLibrary found;
    found.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!found.handle) {
      found.failure = dlerror();
      return found;
    }
    const auto find = [&](auto &function, const char *name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(found.handle, name));
      if (!function) found.failure = path + " without " + name;
    };
    find(found.why_no_kernels, "kan_md_kernels_failure");
    find(found.find_kernel, "kan_md_find_kernel");
    return found;
  }();
  return library;
}

}    // namespace

void require_operator_library()
{
  const OperatorLibrary &library = operator_library();
  if (!library.failure.empty())
    throw Error("model file uses kan-md's operators, which need their library", library.failure, "",
                "run kan-md build --force, or deploy the model with --portable");
  if (const char *const failure = library.why_no_kernels()) throw Error(failure);
}

void *find_in_operator_library(const std::string &symbol)
{
  const OperatorLibrary &library = operator_library();
  if (!library.failure.empty()) return nullptr;
  void *const kernel = library.find_kernel(symbol.c_str());
  return kernel ? kernel : dlsym(library.handle, symbol.c_str());
}

}    // namespace kan_md
