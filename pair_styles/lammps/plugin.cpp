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
#include "library.h"

#include <cstdio>
#include <string>

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

// The version that the headers are of, as yyyymmdd; what lies where in LAMMPS' objects depends on it.
constexpr int BUILT_FOR = KAN_MD_LAMMPS_VERSION;

// As LAMMPS writes it, e.g. 22 Jul 2025.
std::string name_of_version(int version)
{
  static constexpr const char *MONTHS[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                           "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const int month = version / 100 % 100;
  return std::to_string(version % 100) + " " +
         (month >= 1 && month <= 12 ? MONTHS[month - 1] : "?") + " " +
         std::to_string(version / 10000);
}

// Says on one rank that the styles stay away, through what works in every version: LAMMPS itself goes
// on with a mere remark.
void refuse(void *lmp, int running)
{
  if (lammps_extract_setting(lmp, "world_rank") != 0) return;
  std::printf("WARNING: kan-md's plug-in is built for LAMMPS %s and this is LAMMPS %s: pair_style "
              "allegro, nequip and mace, compute kanmd/tensor and fix kanmd/efield are not there; "
              "run kan-md build in the environment of this LAMMPS\n",
              name_of_version(BUILT_FOR).c_str(), name_of_version(running).c_str());
  std::fflush(stdout);
}

Registration describe(const char *style, const char *name, void *handle)
{
  static const std::string version = name_of_version(BUILT_FOR);
  Registration entry{};
  entry.version = version.c_str();
  entry.style = style;
  entry.name = name;
  entry.info = "kan-md";
  entry.author = "kan-md";
  entry.handle = handle;
  return entry;
}

void add_pair_style(const char *name, Factory1 *factory, void *lmp, void *handle, Register add)
{
  Registration entry = describe("pair", name, handle);
  entry.creator.v1 = factory;
  add(&entry, lmp);
}

void add_style(const char *style, const char *name, Factory2 *factory, void *lmp, void *handle,
               Register add)
{
  Registration entry = describe(style, name, handle);
  entry.creator.v2 = factory;
  add(&entry, lmp);
}

}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  const int running = lammps_version(lmp);
  if (running != BUILT_FOR) {
    refuse(lmp, running);
    return;
  }
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
