/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Turns exceptions of the core into LAMMPS' errors, for styles that are no pair style.

#ifndef LMP_KANMD_GUARD_H
#define LMP_KANMD_GUARD_H

#include "comm.h"
#include "error.h"
#include "exceptions.h"
#include "lammps.h"

#include <algorithm>
#include <exception>
#include <string>

namespace LAMMPS_NS {

inline std::string one_line(const std::string &style, const std::string &problem)
{
  std::string line = style + ": " + problem;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

// Runs `body`, which every rank runs. Where it throws on any rank, all ranks stop with the message of
// the first of these.
template <typename Body> void guard_together(LAMMPS *lmp, const std::string &style, Body &&body)
{
  std::string problem;
  try {
    body();
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::exception &failure) {
    problem = failure.what();
  }
  const Comm *const comm = lmp->comm;
  int mine = problem.empty() ? comm->nprocs : comm->me;
  int first = 0;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, lmp->world);
  if (first == comm->nprocs) return;
  int size = static_cast<int>(problem.size());
  MPI_Bcast(&size, 1, MPI_INT, first, lmp->world);
  problem.resize(size);
  MPI_Bcast(problem.data(), size, MPI_CHAR, first, lmp->world);
  lmp->error->all(FLERR, one_line(style, problem));
}

}    // namespace LAMMPS_NS

#endif
