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

#include <algorithm>
#include <cmath>
#include <limits>

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
    Fix(lmp, narg, arg), raised_(false), running_(false), user_(0.0), own_(0.0)
{
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
  return PRE_EXCHANGE | INITIAL_INTEGRATE | INITIAL_INTEGRATE_RESPA | PRE_FORCE | PRE_FORCE_RESPA |
         MIN_PRE_EXCHANGE | MIN_PRE_FORCE;
}

FixKanmdGhosts *FixKanmdGhosts::expect(LAMMPS *lmp, const void *style)
{
  FixKanmdGhosts *fix = find(lmp);
  if (!fix)
    fix = dynamic_cast<FixKanmdGhosts *>(
        lmp->modify->add_fix(std::string(ID) + " all KANMD/GHOSTS", 0));
  if (!fix)
    throw kan_md::Error("the fix ID KANMD_GHOSTS belongs to kan-md", "a fix of another style", "",
                        "give that fix another ID");
  fix->wishes_.try_emplace(style, 0.0);
  return fix;
}

void FixKanmdGhosts::want(LAMMPS *lmp, const void *style, double cutoff)
{
  FixKanmdGhosts *const fix = expect(lmp, style);
  fix->wishes_[style] = cutoff;
  fix->raise();
}

void FixKanmdGhosts::forget(LAMMPS *lmp, const void *style)
{
  FixKanmdGhosts *const fix = find(lmp);
  if (!fix || fix->wishes_.erase(style) == 0 || !fix->wishes_.empty()) return;
  lmp->modify->delete_fix(ID);
}

double FixKanmdGhosts::height(LAMMPS *lmp, int d)
{
  if (!lmp->domain->triclinic) return lmp->domain->prd[d];
  const double *const h = lmp->domain->h_inv;
  if (d == 0) return 1.0 / std::sqrt(h[0] * h[0] + h[5] * h[5] + h[4] * h[4]);
  return d == 1 ? 1.0 / std::sqrt(h[1] * h[1] + h[3] * h[3]) : 1.0 / h[2];
}

// In triclinic boxes LAMMPS keeps cutoffs in fractions of the box.
double FixKanmdGhosts::ghost_distance(LAMMPS *lmp)
{
  double least = std::numeric_limits<double>::max();
  for (int d = 0; d < 3; ++d)
    least =
        std::min(least, lmp->comm->cutghost[d] * (lmp->domain->triclinic ? height(lmp, d) : 1.0));
  return least;
}

/* ---------------------------------------------------------------------- */

double FixKanmdGhosts::wanted() const
{
  double most = 0.0;
  for (const auto &wish : wishes_) most = std::max(most, wish.second);
  return most;
}

void FixKanmdGhosts::raise_in_run()
{
  running_ = true;
  raise_for_lists();
}

// LAMMPS would warn of a wish that its neighbour lists exceed anyway.
void FixKanmdGhosts::raise_for_lists()
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
// (write_restart, dynamical_matrix), but they make their ghosts afterwards. LAMMPS' own flag for a run
// stays up after one that ended in an error.
int FixKanmdGhosts::pack_border(int, int *, double *)
{
  if (!running_) restore();
  return 0;
}
