// Operators of kan-md's own in a library that this program is linked with: used where the sources are
// patched into a LAMMPS source tree. operators_loader.cpp is the other way.

#include "backend.h"
#include "error.h"

#include <dlfcn.h>

#include <string>

namespace kan_md {

extern "C" const char *kan_md_kernels_failure();
extern "C" void *kan_md_find_kernel(const char *symbol);

void require_operator_library()
{
  if (const char *const failure = kan_md_kernels_failure()) throw Error(failure);
}

void *find_in_operator_library(const std::string &symbol)
{
  if (void *const kernel = kan_md_find_kernel(symbol.c_str())) return kernel;
  Dl_info there;
  if (!dladdr(reinterpret_cast<const void *>(&kan_md_find_kernel), &there)) return nullptr;
  void *const library = dlopen(there.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  return library ? dlsym(library, symbol.c_str()) : nullptr;
}

}    // namespace kan_md
