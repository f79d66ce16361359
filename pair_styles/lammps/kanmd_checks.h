/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// What must hold at every step. Errors name the step, the atoms and their distance.

#ifndef LMP_KANMD_CHECKS_H
#define LMP_KANMD_CHECKS_H

#include "core/graph.h"

#include <string>

namespace LAMMPS_NS {

// Throws kan_md::Error where an owned atom's position is not a number.
void check_positions(class LAMMPS *lmp, const kan_md::AtomView &atoms);

// Whether special_bonds takes any pair of this rank's atoms out of the neighbour lists.
bool loses_bonded_neighbours(class LAMMPS *lmp);

// Throws kan_md::Error that names the atoms of `graph` that sit on one another (kan_md::COINCIDENT):
// a model gives anything for them. For graphs that are known to have some.
[[noreturn]] void refuse_coincident_atoms(class LAMMPS *lmp, const kan_md::Graph &graph);

// Throws kan_md::Error where one of the values [num_nodes, width] of the first `num_nodes` nodes is
// not a number, naming of the atoms concerned the one that is nearest to another.
void check_values(class LAMMPS *lmp, const std::string &quantity, const kan_md::Graph &graph,
                  const double *values, std::int64_t num_nodes, int width);

}    // namespace LAMMPS_NS

#endif
