/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Turns exceptions of the core into LAMMPS' errors.

#ifndef LMP_KANMD_GUARD_H
#define LMP_KANMD_GUARD_H

#include "comm.h"
#include "error.h"
#include "exceptions.h"
#include "lammps.h"

#include <algorithm>
#include <exception>
#include <new>
#include <string>

namespace LAMMPS_NS {

inline std::string one_line(const std::string &who, const std::string &problem)
{
  std::string line = who + ": " + problem;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

// What `body` throws, in words; empty where it throws nothing. LAMMPS' own errors go through.
template <typename Body> std::string problem_of(Body &&body)
{
  try {
    body();
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::bad_alloc &) {
    return "out of memory; use fewer atoms per rank or a smaller model";
  } catch (const std::exception &failure) {
    return failure.what();
  }
  return "";
}

// Runs `body` on this rank, which stops them all where it throws. `who` is read afterwards.
template <typename Body> void guard(LAMMPS *lmp, const std::string &who, Body &&body)
{
  const std::string problem = problem_of(body);
  if (!problem.empty()) lmp->error->one(FLERR, one_line(who, problem));
}

// Runs `body`, which every rank runs. Where it throws on any rank, all ranks stop with the message of
// the first of these: every rank must reach error->all.
template <typename Body> void guard_together(LAMMPS *lmp, const std::string &who, Body &&body)
{
  std::string problem = problem_of(body);
  const Comm *const comm = lmp->comm;
  int mine = problem.empty() ? comm->nprocs : comm->me;
  int first = 0;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, lmp->world);
  if (first == comm->nprocs) return;
  int size = static_cast<int>(problem.size());
  MPI_Bcast(&size, 1, MPI_INT, first, lmp->world);
  problem.resize(size);
  MPI_Bcast(problem.data(), size, MPI_CHAR, first, lmp->world);
  lmp->error->all(FLERR, one_line(who, problem));
}

}    // namespace LAMMPS_NS

#endif
