// Neighbours of atoms from their positions alone, for styles that cannot ask LAMMPS for a list with
// a cutoff of their own.

#pragma once

#include <vector>

namespace kan_md {

// Periodic images are atoms like any other (LAMMPS' ghosts): there are no boundaries here.
class CellList {
 public:
  // Finds for each of the atoms [0, num_centres) with use[atom] the other such atoms closer than
  // `cutoff`, and for each used atom in [num_centres, num_all) those closer than `ghost_cutoff`
  // (none where that is zero). Time and memory are linear in the number of pairs.
  void build(const double *const *x, int num_all, int num_centres, const std::vector<char> &use,
             double cutoff, double ghost_cutoff);

  const int *counts() const { return counts_.data(); }              // [num_all]
  const int *const *neighbours() const { return first_.data(); }    // [num_all]

 private:
  std::vector<int> cell_of_, cell_start_, cell_atoms_;
  std::vector<int> counts_, pairs_;
  std::vector<long> offsets_;
  std::vector<const int *> first_;
};

}    // namespace kan_md
