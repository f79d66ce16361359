/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#ifdef PAIR_CLASS
// clang-format off
PairStyle(allegro,PairAllegro);
// clang-format on
#else

#ifndef LMP_PAIR_ALLEGRO_H
#define LMP_PAIR_ALLEGRO_H

#include "pair_kan.h"

namespace LAMMPS_NS {

class PairAllegro : public PairKAN {
 public:
  explicit PairAllegro(class LAMMPS *lmp) : PairKAN(lmp, "allegro") {}

 protected:
  kan_md::Layout choose_layout(int num_layers, int num_ranks) const override;
};

}    // namespace LAMMPS_NS

#endif
#endif
