/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "fix_kanmd_ghosts.h"

#include "core/error.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "modify.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>

using namespace LAMMPS_NS;
using namespace FixConst;

namespace {

constexpr const char *ID = "KANMD_GHOSTS";

FixKanmdGhosts *find(LAMMPS *lmp)
{
  return lmp->modify ? dynamic_cast<FixKanmdGhosts *>(lmp->modify->get_fix_by_id(ID)) : nullptr;
}

}    // namespace

/* ---------------------------------------------------------------------- */

FixKanmdGhosts::FixKanmdGhosts(LAMMPS *lmp, int narg, char **arg) :
    Fix(lmp, narg, arg), raised_(false), user_(0.0), own_(0.0)
{
  nevery = 1;
  dynamic_group_allow = 1;
  atom->add_callback(Atom::BORDER);
}

FixKanmdGhosts::~FixKanmdGhosts()
{
  if (atom) atom->delete_callback(id, Atom::BORDER);
  restore();
}

int FixKanmdGhosts::setmask()
{
  return PRE_EXCHANGE | INITIAL_INTEGRATE | INITIAL_INTEGRATE_RESPA | END_OF_STEP |
         MIN_PRE_EXCHANGE | MIN_POST_FORCE;
}

void FixKanmdGhosts::want(LAMMPS *lmp, const void *style, double cutoff)
{
  FixKanmdGhosts *fix = find(lmp);
  if (!fix)
    fix = dynamic_cast<FixKanmdGhosts *>(
        lmp->modify->add_fix(std::string(ID) + " all KANMD/GHOSTS", 0));
  if (!fix)
    throw kan_md::Error("the fix ID KANMD_GHOSTS belongs to kan-md", "a fix of another style", "",
                        "give that fix another ID");
  fix->wishes_[style] = cutoff;
  fix->raise();
}

void FixKanmdGhosts::forget(LAMMPS *lmp, const void *style)
{
  FixKanmdGhosts *const fix = find(lmp);
  if (!fix || fix->wishes_.erase(style) == 0 || !fix->wishes_.empty()) return;
  lmp->modify->delete_fix(ID);
}

// In triclinic boxes LAMMPS keeps cutoffs in fractions of the box.
double FixKanmdGhosts::reach(LAMMPS *lmp)
{
  const double *const cut = lmp->comm->cutghost;
  if (!lmp->domain->triclinic) return std::min({cut[0], cut[1], cut[2]});
  const double *const h = lmp->domain->h_inv;
  return std::min({cut[0] / std::sqrt(h[0] * h[0] + h[5] * h[5] + h[4] * h[4]),
                   cut[1] / std::sqrt(h[1] * h[1] + h[3] * h[3]), cut[2] / h[2]});
}

/* ---------------------------------------------------------------------- */

double FixKanmdGhosts::wanted() const
{
  double most = 0.0;
  for (const auto &wish : wishes_) most = std::max(most, wish.second);
  return most;
}

// LAMMPS would warn of a wish that its neighbour lists exceed anyway.
void FixKanmdGhosts::raise_in_run()
{
  if (wanted() > neighbor->cutneighmax)
    raise();
  else
    restore();
}

// A value that is no longer ours is the user's of meanwhile.
void FixKanmdGhosts::raise()
{
  if (!raised_ || comm->cutghostuser != own_) user_ = comm->cutghostuser;
  own_ = comm->cutghostuser = std::max(user_, wanted());
  raised_ = true;
}

void FixKanmdGhosts::restore()
{
  if (raised_ && comm && comm->cutghostuser == own_) comm->cutghostuser = user_;
  raised_ = false;
}

// Commands other than run and minimize call no fix before they set up their communication
// (write_restart, dynamical_matrix), but they make their ghosts afterwards.
int FixKanmdGhosts::pack_border(int, int *, double *)
{
  if (update->whichflag == 0) restore();
  return 0;
}
