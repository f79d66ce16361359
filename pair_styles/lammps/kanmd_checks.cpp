/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "kanmd_checks.h"

#include "core/error.h"

#include "atom.h"
#include "fmt/format.h"
#include "lammps.h"
#include "neighbor.h"
#include "update.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>
#include <vector>

using namespace LAMMPS_NS;
using kan_md::Graph;

namespace {

std::string at_step(const LAMMPS *lmp)
{
  return fmt::format("at step {}", lmp->update->ntimestep);
}

// Its ID, or where it is in a run without IDs.
std::string name_of(const LAMMPS *lmp, int atom)
{
  const Atom *const atoms = lmp->atom;
  if (atoms->tag_enable) return fmt::format("{}", atoms->tag[atom]);
  const double *const x = atoms->x[atom];
  return fmt::format("(none, at {:.6g} {:.6g} {:.6g})", x[0], x[1], x[2]);
}

// Of an edge, at the present positions; edges of a list that is kept may be older.
double length_of(const LAMMPS *lmp, const Graph &graph, std::int64_t edge)
{
  const double *const a = lmp->atom->x[graph.node_atoms[graph.edge_index[edge]]];
  const double *const b = lmp->atom->x[graph.neighbour_atoms[edge]];
  return std::hypot(b[0] - a[0], b[1] - a[1], b[2] - a[2]);
}

}    // namespace

void LAMMPS_NS::check_positions(LAMMPS *lmp, const kan_md::AtomView &atoms)
{
  const int lost = kan_md::find_lost_atom(atoms);
  if (lost < 0) return;
  throw kan_md::Error(
      "atom positions must be finite numbers",
      fmt::format("nan or inf of atom ID {} {}", name_of(lmp, lost), at_step(lmp)), "",
      "the run has blown up: reduce the timestep, minimize first, or check the data file");
}

bool LAMMPS_NS::loses_bonded_neighbours(LAMMPS *lmp)
{
  const Atom *const atom = lmp->atom;
  if (atom->molecular == Atom::ATOMIC) return false;
  for (int k = 1; k <= 3; ++k) {
    if (lmp->neighbor->special_flag[k] != 0) continue;    // the pair stays in the list
    if (!atom->nspecial) return true;                     // of a molecule template
    for (int i = 0; i < atom->nlocal; ++i)    // counts add up from bond to angle to dihedral
      if (atom->nspecial[i][k - 1] > (k > 1 ? atom->nspecial[i][k - 2] : 0)) return true;
  }
  return false;
}

void LAMMPS_NS::refuse_coincident_atoms(LAMMPS *lmp, const Graph &graph)
{
  using Names = std::pair<std::string, std::string>;
  std::set<Names> pairs;
  Names closest;
  double shortest = std::numeric_limits<double>::max();
  for (std::int64_t edge = 0; edge < graph.num_edges; ++edge) {
    const double length = length_of(lmp, graph, edge);
    if (!(length < kan_md::COINCIDENT)) continue;
    const int a = graph.node_atoms[graph.edge_index[edge]], b = graph.neighbour_atoms[edge];
    const bool in_order = !lmp->atom->tag_enable || lmp->atom->tag[a] <= lmp->atom->tag[b];
    const Names names{name_of(lmp, in_order ? a : b), name_of(lmp, in_order ? b : a)};
    pairs.insert(names);
    if (length < shortest) {
      shortest = length;
      closest = names;
    }
  }
  throw kan_md::Error("atoms must not sit on one another",
                      fmt::format("atom IDs {} and {} at a distance of {:.3g} Å {}{}",
                                  closest.first, closest.second, shortest, at_step(lmp),
                                  pairs.size() > 1
                                      ? fmt::format(", and {} more pair(s)", pairs.size() - 1)
                                      : std::string()),
                      fmt::format("{} Å and more", kan_md::COINCIDENT),
                      "remove duplicates from the data file (delete_atoms overlap 0.1 all all), "
                      "mind both sides of a periodic box, or reduce the timestep");
}

void LAMMPS_NS::check_values(LAMMPS *lmp, const std::string &quantity, const Graph &graph,
                             const double *values, std::int64_t num_nodes, int width)
{
  // A sum is not a number where one of its terms is none.
  double sum = 0.0;
  for (std::int64_t k = 0; k < num_nodes * width; ++k) sum += values[k];
  if (std::isfinite(sum)) return;

  // Messages carry such a value far: the cause is likely where atoms are closest.
  constexpr double FAR = std::numeric_limits<double>::max();
  std::vector<double> nearest(num_nodes, FAR);
  std::vector<int> neighbours(num_nodes, -1);
  for (std::int64_t edge = 0; edge < graph.num_edges; ++edge) {
    const std::int64_t node = graph.edge_index[edge];
    const double length = length_of(lmp, graph, edge);
    if (node >= num_nodes || !(length < nearest[node])) continue;
    nearest[node] = length;
    neighbours[node] = graph.neighbour_atoms[edge];
  }
  std::int64_t worst = -1;
  double value = sum;    // too large, though all terms are numbers
  for (std::int64_t node = 0; node < num_nodes; ++node) {
    const auto *const end = values + (node + 1) * width;
    const auto *const bad = std::find_if(values + node * width, end,
                                         [](double found) { return !std::isfinite(found); });
    if (bad == end || (worst >= 0 && nearest[node] >= nearest[worst])) continue;
    worst = node;
    value = *bad;
  }
  if (worst < 0) worst = std::min_element(nearest.begin(), nearest.end()) - nearest.begin();
  const std::string surroundings =
      neighbours[worst] < 0
          ? "without neighbours"
          : fmt::format("whose nearest neighbour is atom ID {} at a distance of {:.4g} Å",
                        name_of(lmp, neighbours[worst]), nearest[worst]);
  throw kan_md::Error(quantity + " must be finite numbers",
                      fmt::format("{} of atom ID {} {}, {}", value,
                                  name_of(lmp, graph.node_atoms[worst]), at_step(lmp),
                                  surroundings),
                      "",
                      "atoms are likely far from all training data: reduce the timestep, minimize "
                      "first, or check the structure (and the model, with kan-md evaluate)");
}
