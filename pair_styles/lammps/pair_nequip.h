/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#ifdef PAIR_CLASS
// clang-format off
PairStyle(nequip,PairNequIP);
// clang-format on
#else

#ifndef LMP_PAIR_NEQUIP_H
#define LMP_PAIR_NEQUIP_H

#include "pair_kan.h"

namespace LAMMPS_NS {

class PairNequIP : public PairKAN {
 public:
  explicit PairNequIP(class LAMMPS *lmp) : PairKAN(lmp, "nequip") {}

 protected:
  kan_md::Layout choose_layout(int num_layers, int num_ranks) const override;
};

}    // namespace LAMMPS_NS

#endif
#endif
