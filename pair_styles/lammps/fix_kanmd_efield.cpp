/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "fix_kanmd_efield.h"

#include "compute_kanmd_tensor.h"
#include "core/error.h"
#include "core/text.h"
#include "guard.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "input.h"
#include "memory.h"
#include "modify.h"
#include "update.h"
#include "utils.h"
#include "variable.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace LAMMPS_NS;
using namespace FixConst;

namespace {

// What is kept of an atom between evaluations: whether there is anything, position, charge tensor.
constexpr int KNOWN = 0, POSITION = 1, CHARGE = 4, LAST_COLUMNS = 13;

}    // namespace

/* ---------------------------------------------------------------------- */

FixKanmdEfield::FixKanmdEfield(LAMMPS *lmp, int narg, char **arg) :
    Fix(lmp, narg, arg), style_(std::string("fix ") + id + " kanmd/efield"), tensor_(nullptr),
    last_(nullptr), moved_{0.0, 0.0, 0.0}, force_{0.0, 0.0, 0.0}, all_{}, summed_(false)
{
  std::string name = "bec";
  std::string elements;
  guard_together(lmp, style_, [&] {
    if (narg < 7)
      throw kan_md::Error("must be: fix ID group kanmd/efield FILE Ex Ey Ez [ELEMENT ...]",
                          std::to_string(narg) + " arguments", "", "add what is missing");
    int end = narg;
    if (narg >= 9 && strcmp(arg[narg - 2], "tensor") == 0) {
      name = arg[narg - 1];
      end = narg - 2;
    }
    for (int k = 7; k < end; ++k) elements += std::string(" ") + arg[k];
    for (int d = 0; d < 3; ++d) {
      const std::string word = arg[4 + d];
      if (utils::strmatch(word, "^v_"))
        field_[d].variable = word.substr(2);
      else if (const auto number = kan_md::number_in(word); number && std::isfinite(*number))
        field_[d].value = *number;
      else
        throw kan_md::Error(std::string("field component E") + "xyz"[d], word,
                            "a number in V/Å, or v_NAME", "correct it");
    }
  });
  compute_id_ = std::string(id) + "_tensor";
  compute_command_ =
      fmt::format("{} all kanmd/tensor {} {}{}", compute_id_, arg[3], name, elements);

  scalar_flag = vector_flag = 1;
  size_vector = 6;
  global_freq = 1;
  extscalar = extvector = 1;
  energy_global_flag = 1;
  restart_global = 1;
  dynamic_group_allow = 1;
  grow_arrays(atom->nmax);
  atom->add_callback(Atom::GROW);
  for (int i = 0; i < atom->nlocal; ++i) set_arrays(i);
}

FixKanmdEfield::~FixKanmdEfield()
{
  if (atom) atom->delete_callback(id, Atom::GROW);
  if (modify && modify->get_compute_by_id(compute_id_)) modify->delete_compute(compute_id_);
  memory->destroy(last_);
}

int FixKanmdEfield::setmask()
{
  return POST_FORCE | MIN_POST_FORCE;
}

// The tensors are also the user's, as c_ID_tensor.
void FixKanmdEfield::post_constructor()
{
  auto *const compute = modify->add_compute(compute_command_);
  tensor_ = dynamic_cast<ComputeKanmdTensor *>(compute);
  if (!tensor_ || tensor_->tensor().rank != 2 || !tensor_->tensor().per_atom)
    error->all(FLERR,
               one_line(style_, "needs a tensor of rank 2 per atom (Born charges), got " +
                                    compute_command_ + "; name another with keyword tensor"));
}

void FixKanmdEfield::init()
{
  tensor_ = dynamic_cast<ComputeKanmdTensor *>(modify->get_compute_by_id(compute_id_));
  if (!tensor_)
    error->all(FLERR, one_line(style_, "compute " + compute_id_ +
                                           " of this fix is gone, got "
                                           "uncompute; define the fix again"));
  if (utils::strmatch(update->integrate_style, "^respa"))
    error->all(FLERR, one_line(style_, "run_style must be verlet, got respa; change run_style"));
  for (const auto &component : field_) {
    if (component.variable.empty()) continue;
    const int found = input->variable->find(component.variable.c_str());
    if (found < 0 || !input->variable->equalstyle(found))
      error->all(FLERR, one_line(style_, "variable " + component.variable +
                                             " must be an equal-style variable, got " +
                                             (found < 0 ? "none of that name" : "another style") +
                                             "; define it before the run"));
  }
}

void FixKanmdEfield::setup(int vflag)
{
  post_force(vflag);
}

void FixKanmdEfield::min_setup(int vflag)
{
  post_force(vflag);
}

void FixKanmdEfield::min_post_force(int vflag)
{
  post_force(vflag);
}

/* ---------------------------------------------------------------------- */

void FixKanmdEfield::read_field()
{
  bool any = false;
  for (const auto &component : field_) any = any || !component.variable.empty();
  if (!any) return;
  modify->clearstep_compute();
  for (auto &component : field_) {
    if (component.variable.empty()) continue;
    component.value =
        input->variable->compute_equal(input->variable->find(component.variable.c_str()));
    if (!std::isfinite(component.value))
      error->all(FLERR, one_line(style_, fmt::format("variable {} must be a finite number, got {} "
                                                     "at step {}; correct it",
                                                     component.variable, component.value,
                                                     update->ntimestep)));
  }
  modify->addstep_compute(update->ntimestep + 1);
}

void FixKanmdEfield::post_force(int)
{
  read_field();
  // Always anew: a minimiser evaluates several positions within one step.
  tensor_->compute_peratom();
  tensor_->invoked_flag |= Compute::INVOKED_PERATOM;

  std::fill(force_, force_ + 3, 0.0);
  summed_ = false;
  for (int i = 0; i < atom->nlocal; ++i) {
    double *const last = last_[i];
    if (!(atom->mask[i] & groupbit)) {
      last[KNOWN] = 0.0;
      continue;
    }
    const double *const charge = tensor_->array_atom[i];    // Z_ij at 3 i + j
    double position[3];
    domain->unmap(atom->x[i], atom->image[i], position);
    for (int a = 0; a < 3; ++a) {
      if (last[KNOWN] > 0.0)
        for (int j = 0; j < 3; ++j)
          moved_[a] += 0.5 * (charge[3 * a + j] + last[CHARGE + 3 * a + j]) *
                       (position[j] - last[POSITION + j]);
      double force = 0.0;
      for (int b = 0; b < 3; ++b) force += field_[b].value * charge[3 * b + a];
      atom->f[i][a] += force;
      force_[a] += force;
    }
    last[KNOWN] = 1.0;
    std::copy(position, position + 3, last + POSITION);
    std::copy(charge, charge + 9, last + CHARGE);
  }
}

/* ----------------------------------------------------------------------
   scalar: -P.E, eV; vector: P, e Å, and the total force, eV/Å
------------------------------------------------------------------------- */

void FixKanmdEfield::sum_over_ranks()
{
  if (summed_) return;
  double mine[6];
  std::copy(moved_, moved_ + 3, mine);
  std::copy(force_, force_ + 3, mine + 3);
  MPI_Allreduce(mine, all_, 6, MPI_DOUBLE, MPI_SUM, world);
  summed_ = true;
}

double FixKanmdEfield::compute_scalar()
{
  sum_over_ranks();
  double energy = 0.0;
  for (int d = 0; d < 3; ++d) energy -= all_[d] * field_[d].value;
  return energy;
}

double FixKanmdEfield::compute_vector(int n)
{
  sum_over_ranks();
  return all_[n];
}

double FixKanmdEfield::memory_usage()
{
  return static_cast<double>(atom->nmax) * LAST_COLUMNS * sizeof(double);
}

/* ----------------------------------------------------------------------
   restart: positions continue where they were, so P alone is enough
------------------------------------------------------------------------- */

void FixKanmdEfield::write_restart(FILE *file)
{
  sum_over_ranks();
  if (comm->me != 0) return;
  const int size = 3 * sizeof(double);
  fwrite(&size, sizeof(int), 1, file);
  fwrite(all_, sizeof(double), 3, file);
}

void FixKanmdEfield::restart(char *buffer)
{
  std::memcpy(moved_, buffer, 3 * sizeof(double));
  if (comm->me != 0) std::fill(moved_, moved_ + 3, 0.0);
  summed_ = false;
}

/* ----------------------------------------------------------------------
   what moves with an atom
------------------------------------------------------------------------- */

void FixKanmdEfield::grow_arrays(int nmax)
{
  memory->grow(last_, nmax, LAST_COLUMNS, "kanmd/efield:last");
}

void FixKanmdEfield::copy_arrays(int from, int to, int)
{
  std::copy(last_[from], last_[from] + LAST_COLUMNS, last_[to]);
}

void FixKanmdEfield::set_arrays(int i)
{
  std::fill(last_[i], last_[i] + LAST_COLUMNS, 0.0);
}

int FixKanmdEfield::pack_exchange(int i, double *buffer)
{
  std::copy(last_[i], last_[i] + LAST_COLUMNS, buffer);
  return LAST_COLUMNS;
}

int FixKanmdEfield::unpack_exchange(int i, double *buffer)
{
  std::copy(buffer, buffer + LAST_COLUMNS, last_[i]);
  return LAST_COLUMNS;
}
