/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Made by the styles that need it, never by the input.

#ifdef FIX_CLASS
// clang-format off
FixStyle(KANMD/GHOSTS,FixKanmdGhosts);
// clang-format on
#else

#ifndef LMP_FIX_KANMD_GHOSTS_H
#define LMP_FIX_KANMD_GHOSTS_H

#include "fix.h"

#include <map>
#include <string>

namespace LAMMPS_NS {

// Ghosts further out than any neighbour list needs them.
//
// LAMMPS knows one such wish, comm->cutghostuser, which is also the user's (comm_modify cutoff) and is
// written into restart files. It is only read where LAMMPS sets up its communication, so this fix
// raises it for these moments and puts the user's value back before forces are computed, which may end
// in an error that the caller catches.
class FixKanmdGhosts : public Fix {
 public:
  FixKanmdGhosts(class LAMMPS *, int, char **);
  ~FixKanmdGhosts() override;

  // `style` wants ghosts out to `cutoff` Å from now on. To be called in its init.
  static void want(class LAMMPS *lmp, const void *style, double cutoff);

  // `style` may want some. For one whose init comes after that of fixes: this one is then there before.
  static FixKanmdGhosts *expect(class LAMMPS *lmp, const void *style);

  // `style` wants no more than LAMMPS' own ghosts.
  static void forget(class LAMMPS *lmp, const void *style);

  // How far the present ghosts reach, Å.
  static double ghost_distance(class LAMMPS *lmp);

  // Height of the box over the faces that its edge d meets, Å: what ghosts that reach that far fill.
  static double height(class LAMMPS *lmp, int d);

  int setmask() override;
  void init() override { running_ = false; }
  void setup_pre_exchange() override { raise_for_lists(); }
  void initial_integrate(int) override { raise_in_run(); }
  void initial_integrate_respa(int, int, int) override { raise_in_run(); }
  void min_pre_exchange() override { raise_in_run(); }
  void setup_pre_force(int) override { restore(); }
  void setup_pre_force_respa(int, int) override { restore(); }
  void pre_force(int) override { restore(); }
  void pre_force_respa(int, int, int) override { restore(); }
  void min_pre_force(int) override { restore(); }
  int pack_border(int, int *, double *) override;

 private:
  double wanted() const;
  void raise_in_run();
  void raise_for_lists();
  void raise();
  void restore();

  std::map<const void *, double> wishes_;
  bool raised_;
  bool running_;         // behind the setup of a run: fixes are called before and after borders
  double user_, own_;    // cutghostuser as found, and as raised
};

}    // namespace LAMMPS_NS

#endif
#endif
