/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Turns exceptions of the core into LAMMPS' errors, which then name the place that raised them.

#ifndef LMP_KANMD_GUARD_H
#define LMP_KANMD_GUARD_H

#include "core/error.h"
#include "core/text.h"

#include "comm.h"
#include "error.h"
#include "exceptions.h"
#include "lammps.h"

#include <algorithm>
#include <exception>
#include <new>
#include <source_location>
#include <string>

namespace LAMMPS_NS {

inline std::string one_line(const std::string &who, const std::string &problem)
{
  std::string line = who + ": " + problem;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return kan_md::utf8_of(line);
}

struct Problem {
  std::string text;    // empty where there is none
  std::string file;
  int line = 0;
};

// What `body` throws, in words, raised at `here` where it does not say. LAMMPS' own errors go through.
template <typename Body> Problem problem_of(Body &&body, const std::source_location &here)
{
  const auto at = [](const std::source_location &where, const std::string &text) {
    const std::string file =
        where.file_name();    // with the folders of the machine that compiled it
    const auto ours = file.rfind("pair_styles/");
    return Problem{text, ours == std::string::npos ? file : file.substr(ours),
                   static_cast<int>(where.line())};
  };
  try {
    body();
  } catch (const LAMMPSException &) {
    throw;
  } catch (const kan_md::Error &failure) {
    return at(failure.where(), failure.what());
  } catch (const std::bad_alloc &) {
    return at(here, "out of memory; use fewer atoms per rank or a smaller model");
  } catch (const std::exception &failure) {
    return at(here, failure.what());
  }
  return {};
}

// Runs `body` on this rank, which stops them all where it throws. `who` is read afterwards.
template <typename Body>
void guard(LAMMPS *lmp, const std::string &who, Body &&body,
           std::source_location here = std::source_location::current())
{
  const Problem problem = problem_of(body, here);
  if (!problem.text.empty())
    lmp->error->one(problem.file, problem.line, one_line(who, problem.text));
}

inline void broadcast(LAMMPS *lmp, std::string &text, int from)
{
  int size = static_cast<int>(text.size());
  MPI_Bcast(&size, 1, MPI_INT, from, lmp->world);
  text.resize(size);
  MPI_Bcast(text.data(), size, MPI_CHAR, from, lmp->world);
}

// Runs `body`, which every rank runs. Where it throws on any rank, all ranks stop with the message of
// the first of these: every rank must reach error->all.
template <typename Body>
void guard_together(LAMMPS *lmp, const std::string &who, Body &&body,
                    std::source_location here = std::source_location::current())
{
  Problem problem = problem_of(body, here);
  const Comm *const comm = lmp->comm;
  int mine = problem.text.empty() ? comm->nprocs : comm->me;
  int first = 0;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, lmp->world);
  if (first == comm->nprocs) return;
  broadcast(lmp, problem.text, first);
  broadcast(lmp, problem.file, first);
  MPI_Bcast(&problem.line, 1, MPI_INT, first, lmp->world);
  lmp->error->all(problem.file, problem.line, one_line(who, problem.text));
}

}    // namespace LAMMPS_NS

#endif
