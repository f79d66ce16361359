/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "pair_allegro.h"

using namespace LAMMPS_NS;

// An atom's energy depends on its own neighbours only, so ghosts never need to be centres.
kan_md::Layout PairAllegro::choose_layout(int, int) const
{
  return kan_md::Layout::LOCAL_WITH_GHOSTS;
}
