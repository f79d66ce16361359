// Takes memory away from threads: once kan_md_fail_new(1) was called, or with FAIL_NEW=1 in the
// environment, operator new throws in every OpenMP region. For LD_PRELOAD.

#include <dlfcn.h>

#include <cstdlib>
#include <new>

namespace {

bool fails = std::getenv("FAIL_NEW") != nullptr;

bool in_region()
{
  // LAMMPS' run time, which the plug-in finds first, else torch's.
  void *level = dlsym(RTLD_DEFAULT, "omp_get_level");
  void *const torchs = level ? nullptr : dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (torchs) level = dlsym(torchs, "omp_get_level");
  return level && reinterpret_cast<int (*)()>(level)() > 0;
}

void *allocate(std::size_t size)
{
  if (fails && in_region()) throw std::bad_alloc();
  void *const memory = std::malloc(size > 0 ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}    // namespace

extern "C" void kan_md_fail_new(int now)
{
  fails = now != 0;
}

void *operator new(std::size_t size)
{
  return allocate(size);
}

void *operator new[](std::size_t size)
{
  return allocate(size);
}

void *operator new(std::size_t size, std::align_val_t alignment)
{
  if (fails && in_region()) throw std::bad_alloc();
  void *memory = nullptr;
  if (posix_memalign(&memory, static_cast<std::size_t>(alignment), size > 0 ? size : 1) != 0)
    throw std::bad_alloc();
  return memory;
}

void operator delete(void *memory) noexcept
{
  std::free(memory);
}

void operator delete[](void *memory) noexcept
{
  std::free(memory);
}

void operator delete(void *memory, std::align_val_t) noexcept
{
  std::free(memory);
}

void operator delete(void *memory, std::size_t) noexcept
{
  std::free(memory);
}

void operator delete[](void *memory, std::size_t) noexcept
{
  std::free(memory);
}
