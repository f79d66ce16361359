/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "pair_mace.h"

using namespace LAMMPS_NS;

// Messages travel num_layers hops. On one rank a ghost is its owner, which costs no extra node; on
// several the ghosts out to the last hop take part.
kan_md::Layout PairMACE::choose_layout(int num_layers, int num_ranks) const
{
  if (num_ranks == 1) return kan_md::Layout::PERIODIC_IMAGES;
  return num_layers == 1 ? kan_md::Layout::LOCAL_WITH_GHOSTS : kan_md::Layout::HALO;
}
