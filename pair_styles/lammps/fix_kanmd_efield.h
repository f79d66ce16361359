/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// fix ID group kanmd/efield FILE Ex Ey Ez [ELEMENT|NULL ...] [tensor NAME]

#ifdef FIX_CLASS
// clang-format off
FixStyle(kanmd/efield,FixKanmdEfield);
// clang-format on
#else

#ifndef LMP_FIX_KANMD_EFIELD_H
#define LMP_FIX_KANMD_EFIELD_H

#include "fix.h"

#include <string>
#include <vector>

namespace LAMMPS_NS {

// A homogeneous electric field that acts on Born effective charges.
//
// Force on an atom: F_j = sum_i E_i Z_ij, with Z_ij = dF_j/dE_i the model's tensor at the present
// positions (e) and E in V/Å. Energy: -P.E, where P is the change of the polarisation times volume
// (e Å) since the fix was defined, dP_i = sum_atoms sum_j Z_ij dr_j, integrated along the trajectory by
// the trapezoidal rule: its derivative by a displacement is minus the force, to first order in the
// displacement between two evaluations, for charges that change with the positions too. The pressure
// has no part of the field.
class FixKanmdEfield : public Fix {
 public:
  FixKanmdEfield(class LAMMPS *, int, char **);
  ~FixKanmdEfield() override;

  int setmask() override;
  void post_constructor() override;
  void init() override;
  void setup(int) override;
  void min_setup(int) override;
  void post_force(int) override;
  void min_post_force(int) override;
  double compute_scalar() override;
  double compute_vector(int) override;
  double memory_usage() override;

  void write_restart(FILE *) override;
  void restart(char *) override;

  void grow_arrays(int) override;
  void copy_arrays(int, int, int) override;
  void set_arrays(int) override;
  int pack_exchange(int, double *) override;
  int unpack_exchange(int, double *) override;

 private:
  void read_field();
  void sum_over_ranks();

  std::string style_, compute_id_, compute_command_;
  class ComputeKanmdTensor *tensor_;
  struct Component {
    double value = 0.0;
    std::string variable;    // name of an equal-style variable, or empty
  };
  Component field_[3];
  double **last_;      // [nmax][LAST_COLUMNS], of the last evaluation
  double moved_[3];    // e Å, part of P that atoms made on this rank
  double force_[3];    // eV/Å, total force of this rank's atoms
  double all_[6];      // both, summed over ranks
  bool summed_;
};

}    // namespace LAMMPS_NS

#endif
#endif
