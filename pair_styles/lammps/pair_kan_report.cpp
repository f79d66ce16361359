/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// What the user is told: at the start, in warnings, and through the library interface.

#include "pair_kan.h"

#include "guard.h"
#include "kanmd_node.h"

#include "core/memory.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "neighbor.h"
#include "utils.h"

#include <algorithm>
#include <cstring>

using namespace LAMMPS_NS;
using kan_md::Graph;

namespace {

constexpr double MEGABYTE = 1024.0 * 1024.0;

}    // namespace

void PairKAN::report_start(const Graph &graph)
{
  double forecast = 0.0;
  guard_together(lmp, who_, [&] { forecast = forecast_memory(graph); });
  report_start(graph.num_local, graph.num_nodes - graph.num_local, graph.num_edges, forecast);
}

// forecast: of this rank's memory, bytes. Collective.
void PairKAN::report_start(bigint num_local, bigint num_ghosts, bigint num_edges, double forecast)
{
  start_reported_ = true;
  bigint counts[3] = {num_local, num_ghosts, num_edges};
  bigint totals[3];
  MPI_Allreduce(counts, totals, 3, MPI_LMP_BIGINT, MPI_SUM, world);
  double largest = 0.0;
  MPI_Allreduce(&forecast, &largest, 1, MPI_DOUBLE, MPI_MAX, world);
  std::string where = model_->description();
  if (resident_) where += ", " + resident_->description();
  if (local_) where += ", on LAMMPS' neighbour list";
  if (comm->me == 0)
    utils::logmesg(
        lmp,
        "pair_style {}: {}, {}, layout {}, {} atoms, {} ghosts, {} edges, about {:.0f} MB "
        "per rank\n",
        style_, file_, where, kan_md::name_of(builder_->layout()), totals[0], totals[1], totals[2],
        largest / MEGABYTE);
  warn_of_memory(forecast);
}

// The ranks of a machine share its memory, and what its control groups allow. Collective.
void PairKAN::warn_of_memory(double forecast)
{
  const auto held = static_cast<double>(kan_md::resident_bytes());
  const auto available = static_cast<double>(kan_md::available_bytes());
  const double mine[3] = {1.0, forecast, held};
  double node[3];    // ranks, needed, held
  KanmdNode(world).sum(mine, node);
  struct {
    double bytes;
    int rank;
  } lack{available > 0.0 ? node[1] - node[2] - available : 0.0, comm->me}, worst;
  MPI_Allreduce(&lack, &worst, 1, MPI_DOUBLE_INT, MPI_MAXLOC, world);
  if (worst.bytes <= 0.0) return;
  double of_worst[3] = {node[0], node[1], available + node[2]};
  MPI_Bcast(of_worst, 3, MPI_DOUBLE, worst.rank, world);
  if (comm->me == 0)
    error->warning(
        FLERR,
        one_line(who_,
                 fmt::format("about {:.0f} MB are needed by the {:.0f} rank(s) on one machine, "
                             "{:.0f} MB are available to them; use fewer atoms or ranks per "
                             "machine, or float32",
                             of_worst[1] / MEGABYTE, of_worst[0], of_worst[2] / MEGABYTE)));
}

// Resident memory at full size, bytes: evaluates the edges of the first centres, twice, because the
// first evaluation also makes what stays.
double PairKAN::forecast_memory(const Graph &graph)
{
  if (graph.num_edges == 0) return static_cast<double>(kan_md::resident_bytes());
  const std::int64_t wanted = std::max<std::int64_t>(2000, graph.num_edges / 10);
  const Graph warm = kan_md::first_centres(graph, wanted / 10);
  const Graph trial = kan_md::first_centres(graph, wanted);
  model_->run(warm);
  const std::int64_t before = kan_md::resident_bytes();
  model_->run(trial);
  const std::int64_t after = kan_md::resident_bytes();
  const double per_edge =
      static_cast<double>(after - before) /
      static_cast<double>(std::max<std::int64_t>(1, trial.num_edges - warm.num_edges));
  return static_cast<double>(after) +
         per_edge * static_cast<double>(graph.num_edges - trial.num_edges);
}

// Collective, but only where LAMMPS has just rebuilt its lists.
void PairKAN::warn_of_close_atoms(std::int64_t num_close_edges)
{
  close_edges_ += num_close_edges;
  if (warned_of_close_ || neighbor->ago != 0) return;
  bigint total = 0;
  MPI_Allreduce(&close_edges_, &total, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  if (total == 0) return;
  warned_of_close_ = true;
  if (comm->me == 0)
    error->warning(
        FLERR,
        one_line(who_, std::to_string((total + 1) / 2) +
                           " pair(s) of atoms are closer than any pair in the training data; "
                           "the model extrapolates there (the total follows after the run)"));
}

// Collective, but only where LAMMPS has just rebuilt its lists.
void PairKAN::warn_of_bonds(bool lost)
{
  if (warned_of_bonds_ || atom->molecular == Atom::ATOMIC || neighbor->ago != 0) return;
  int mine = lost, any = 0;
  MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, world);
  if (!any) return;
  warned_of_bonds_ = true;
  if (comm->me == 0)
    error->warning(FLERR,
                   one_line(who_, "special_bonds takes bonded neighbours out of the model's sight; "
                                  "use special_bonds lj/coul 1 1 1 unless that is meant"));
}

void PairKAN::warn_of_heat_flux()
{
  if (model_->manifest().num_layers == 1 || warned_of_virial_) return;
  warned_of_virial_ = true;
  if (comm->me == 0)
    error->warning(FLERR,
                   one_line(who_, "per-atom virials of a message-passing model add up to the exact "
                                  "pressure, but a heat flux made of them leaves out what messages "
                                  "carry beyond one neighbour"));
}

void PairKAN::finish()
{
  bigint total = 0;
  MPI_Allreduce(&close_edges_, &total, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  if (total > 0 && comm->me == 0)
    error->warning(
        FLERR,
        one_line(who_, std::to_string((total + 1) / 2) +
                           " pair(s), summed over all steps, were closer than any pair in the "
                           "training data"));
  close_edges_ = 0;
  warned_of_close_ = false;
}

double PairKAN::memory_usage()
{
  const std::size_t doubles =
      tally_.force.capacity() + tally_.virial.capacity() + ghost_return_.capacity();
  return Pair::memory_usage() + exchange_.memory_usage() +
         (local_ ? static_cast<double>(local_->bytes()) : 0.0) +
         static_cast<double>(doubles * sizeof(double) + first_image_.capacity() * sizeof(int) +
                             identity_.capacity() * sizeof(std::int64_t));
}

// Scalars for the library interface: peak device memory of torch's allocator in bytes, zero on the CPU.
void *PairKAN::extract(const char *name, int &dim)
{
  dim = 0;
  if (!model_) return nullptr;
  const kan_md::DeviceMemory memory = model_->device_memory();
  cuda_peak_allocated_ = static_cast<double>(memory.peak_allocated);
  cuda_peak_reserved_ = static_cast<double>(memory.peak_reserved);
  if (strcmp(name, "cuda_peak_allocated") == 0) return &cuda_peak_allocated_;
  if (strcmp(name, "cuda_peak_reserved") == 0) return &cuda_peak_reserved_;
  return nullptr;
}
