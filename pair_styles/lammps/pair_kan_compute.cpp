/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// One step: graph or positions in, energies, forces and virials out.

#include "pair_kan.h"

#include "guard.h"
#include "kanmd_checks.h"
#include "kanmd_comm.h"

#include "core/error.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/same_atoms.h"
#include "core/text.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "neigh_list.h"
#include "neighbor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace LAMMPS_NS;
using kan_md::Array;
using kan_md::Convention;
using kan_md::Graph;
using kan_md::Layout;

namespace {

// Positions of LAMMPS' nine centroid components xx yy zz xy xz yz yx zx zy in a row-major matrix.
constexpr int CENTROID[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};

}    // namespace

/* ---------------------------------------------------------------------- */

void PairKAN::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  if (!ready_)
    error->all(FLERR, one_line(who_, "pair_style or pair_coeff came after the last setup of a run; "
                                     "run without the keyword pre no"));
  const bool new_lists = lists_are_new();
  if (new_lists && builder_->layout() == Layout::HALO)
    guard_together(lmp, who_, [&] { check_ghosts(); });
  if (new_lists && builder_->layout() != Layout::LOCAL_WITH_GHOSTS) find_images();
  if (new_lists) check_special_bonds();
  if (new_lists) find_absent_atoms();

  // With newton off LAMMPS drops what is added to ghosts, so their share waits here.
  const bool own_return = !force->newton_pair && builder_->layout() != Layout::PERIODIC_IMAGES;
  return_width_ = own_return ? 3 + (vflag_atom ? 6 : 0) + (cvflag_atom ? 9 : 0) : 0;
  ghost_return_.assign(static_cast<std::size_t>(return_width_) * (atom->nlocal + atom->nghost),
                       0.0);

  if (resident_) {
    if (new_lists) send_list();
    compute_resident();
  } else if (local_) {
    compute_local();
  } else {
    compute_sent();
  }
  lists_seen_ = neighbor->lastcall;
  if (own_return) return_ghost_forces();
}

// Besides what LAMMPS says of its lists: fixes may change atoms' types in between.
bool PairKAN::lists_are_new() const
{
  if (neighbor->ago == 0 || neighbor->lastcall != lists_seen_) return true;
  return resident_ && !std::equal(list_types_.begin(), list_types_.end(), atom->type,
                                  atom->type + atom->nlocal + atom->nghost);
}

// LAMMPS takes bonded neighbours with weights of zero out of the lists of owned atoms, but not of
// ghosts: messages would depend on the number of ranks. Bonds may come in the middle of a run.
void PairKAN::check_special_bonds()
{
  const bool lost = loses_bonded_neighbours(lmp);
  if (model_->manifest().num_layers > 1)
    guard_step([&] {
      if (lost)
        throw kan_md::Error("message passing needs all neighbours of an atom, bonded ones too",
                            "special_bonds with weights of 0 and bonds in the data", "",
                            "use special_bonds lj/coul 1 1 1");
    });
  else
    warn_of_bonds(lost);
}

// A rank that fails stops them all; together where they meet anyway.
void PairKAN::guard_step(const std::function<void()> &body, std::source_location here)
{
  if (neighbor->ago == 0)
    guard_together(lmp, who_, body, here);
  else
    guard(lmp, who_, body, here);
}

// The graph of the present positions goes to the model.
void PairKAN::compute_sent()
{
  const Graph *graph = nullptr;
  guard_step([&] {
    const kan_md::AtomView atoms = view_atoms();
    check_positions(lmp, atoms);
    graph = &builder_->build(atoms, types_, first_image_.data(), comm->nthreads);
    if (graph->num_coincident > 0) refuse_coincident_atoms(lmp, *graph);
  });
  if (!start_reported_) report_start(*graph);
  warn_of_close_atoms(graph->num_close_edges);
  if (builder_->layout() == Layout::EXCHANGE)
    guard(lmp, who_, [&] { evaluate(*graph); });    // the others wait for features, not here
  else
    guard_step([&] { evaluate(*graph); });
}

// The present positions go to the model, which has the neighbour list.
void PairKAN::compute_resident()
{
  kan_md::StepResult result;
  const bool per_atom = eflag_atom || vflag_atom || cvflag_atom;
  guard_step([&] {
    check_positions(lmp, view_atoms());
    result = resident_->step(atom->x, per_atom);
    if (result.coincident_atoms) refuse_coincident_atoms(lmp, list_);
    if (!std::isfinite(result.energy) && !per_atom) result = resident_->step(atom->x, true);
    if (result.energies)
      add_energies(list_, {result.energies, {list_.num_nodes, 1}});
    else if (eflag_global)
      eng_vdwl += result.energy - energy_of_absent_atoms();
    add_to_atoms(list_, result.forces, result.virials);
    add_virial(list_, result.virial);
  });
  warn_of_close_atoms(result.num_close_edges);
}

// LAMMPS' own list and positions go to the model.
void PairKAN::compute_local()
{
  const kan_md::AtomView atoms = view_atoms();
  kan_md::LocalResult result;
  guard_step([&] {
    check_positions(lmp, atoms);
    if (!local_compared_) compare_local(atoms);
    const kan_md::LocalRequest request{comm->nthreads, vflag_global != 0,
                                       vflag_atom || cvflag_atom};
    result = local_->compute(atoms, types_, request);
    if (result.num_coincident > 0)
      refuse_coincident_atoms(lmp, builder_->build(atoms, types_, nullptr, comm->nthreads));
  });
  if (!start_reported_)
    report_start(atoms.inum, atom->nghost, result.num_edges,
                 static_cast<double>(kan_md::resident_bytes()));
  warn_of_close_atoms(result.num_close_edges);
  guard_step([&] { add_local(atoms, result); });
}

// Holds the model on the list against the file's own function, on the first atoms of this run.
void PairKAN::compare_local(const kan_md::AtomView &atoms)
{
  constexpr int COMPARED = 64;           // centres
  constexpr double TOLERANCE = 1e-4;     // relative; both differ by rounding, in float32 perhaps
  constexpr double NEGLIGIBLE = 1e-6;    // eV
  kan_md::AtomView part = atoms;
  part.inum = std::min(part.inum, COMPARED);
  const Graph &graph = builder_->build(part, types_, nullptr, comm->nthreads);
  if (graph.num_edges == 0 || graph.num_coincident > 0) return;    // not yet, or refused soon
  const auto outputs = model_->run(graph);
  const double *const energies = outputs.at(0).data, *const gradient = outputs.at(1).data;
  std::vector<double> forces(3 * graph.num_nodes, 0.0);
  double largest = 0.0;
  for (std::int64_t e = 0; e < graph.num_edges; ++e)
    for (int a = 0; a < 3; ++a) {
      const double g = gradient[3 * e + a];
      forces[3 * graph.edge_index[e] + a] += g;
      forces[3 * graph.edge_index[graph.num_edges + e] + a] -= g;
      largest = std::max(largest, std::abs(g));
    }
  const auto found = local_->compute(part, types_, {comm->nthreads, false, false});
  double force_error = 0.0, energy_error = 0.0, energy_scale = 0.0;
  for (std::int64_t node = 0; node < graph.num_nodes; ++node)
    for (int a = 0; a < 3; ++a)
      force_error = std::max(force_error, std::abs(found.forces[3 * graph.node_atoms[node] + a] -
                                                   forces[3 * node + a]));
  for (int i = 0; i < part.inum; ++i) {
    const double alone = model_->manifest().isolated_energies[graph.atom_types[i]];
    energy_scale = std::max(energy_scale, std::abs(energies[i] - alone));
    energy_error = std::max(energy_error, std::abs(energies[i] - found.energies[i]));
  }
  // What is no number on both sides is told with its cause where it is added up.
  if (force_error > TOLERANCE * largest || energy_error > TOLERANCE * energy_scale + NEGLIGIBLE)
    throw kan_md::Error("the model on LAMMPS' neighbour list must be the file's own function",
                        "differences of " + kan_md::text_of(force_error) + " eV/Å and " +
                            kan_md::text_of(energy_error) + " eV",
                        "", "write: pair_style " + style_ + " direct no");
  local_compared_ = true;
}

void PairKAN::add_local(const kan_md::AtomView &atoms, const kan_md::LocalResult &result)
{
  double energy = 0.0, sum[3] = {};
  for (int k = 0; k < atoms.inum; ++k) {
    const int i = atoms.ilist[k];
    if (is_absent(i)) continue;
    energy += result.energies[k];
    if (eflag_atom) eatom[i] += result.energies[k];
  }
  if (eflag_global) eng_vdwl += energy;
  for (int i = 0; i < atoms.num_all; ++i) {
    const double *const force = result.forces + 3 * static_cast<std::size_t>(i);
    for (int a = 0; a < 3; ++a) sum[a] += force[a];
    add_to_atom(i, force,
                result.virials ? result.virials + 9 * static_cast<std::size_t>(i) : nullptr);
  }
  if (!std::isfinite(energy + sum[0] + sum[1] + sum[2])) {    // the graph tells where
    const Graph &graph = builder_->build(atoms, types_, nullptr, comm->nthreads);
    check_values(lmp, "energies", graph, result.energies, graph.num_local, 1);
    std::vector<double> forces;
    for (const int i : graph.node_atoms)
      forces.insert(forces.end(), result.forces + 3 * i, result.forces + 3 * i + 3);
    check_values(lmp, "forces", graph, forces.data(), graph.num_nodes, 3);
  }
  if (vflag_global) add_virial(result.virial);
}

void PairKAN::send_list()
{
  const auto build = [&](const kan_md::TypeTable &types) -> const Graph & {
    return builder_->build(view_atoms(), types, first_image_.data(), comm->nthreads);
  };
  if (!start_reported_) {
    const Graph *graph = nullptr;
    guard_step([&] { graph = &build(types_); });
    report_start(*graph);
  }
  guard_step([&] {
    kan_md::TypeTable wide = types_;
    for (double &cutoff_sq : wide.cutoff_sq)
      if (cutoff_sq > 0.0) cutoff_sq = std::pow(std::sqrt(cutoff_sq) + neighbor->skin, 2);
    list_ = build(wide);
    const int num_all = atom->nlocal + atom->nghost;
    list_types_.assign(atom->type, atom->type + num_all);
    resident_->set_list(list_, num_all);
  });
}

// No atom map, no unique or dense atom IDs are needed. Ghosts stay the same between two builds of the
// neighbour lists.
void PairKAN::find_images()
{
  identity_.resize(atom->nlocal + atom->nghost);
  for (int i = 0; i < atom->nlocal; ++i) identity_[i] = kan_md::identity_of(comm->me, i);
  send_to_ghosts(comm, this, 1);
  kan_md::find_same_atoms(identity_, first_image_);
  if (builder_->layout() == Layout::EXCHANGE) exchange_.find_partners(identity_);
}

int PairKAN::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  for (int k = 0; k < n; ++k) buffer[k] = ubuf(identity_[atoms[k]]).d;
  return n;
}

void PairKAN::unpack_forward_comm(int n, int first, double *buffer)
{
  for (int k = 0; k < n; ++k) identity_[first + k] = ubuf(buffer[k]).i;
}

kan_md::AtomView PairKAN::view_atoms() const
{
  kan_md::AtomView view;
  view.x = atom->x;
  view.type = atom->type;
  view.num_all = atom->nlocal + atom->nghost;
  view.ilist = list->ilist;
  view.inum = list->inum;
  view.numneigh = list->numneigh;
  view.firstneigh = list->firstneigh;
  view.neigh_mask = NEIGHMASK;
  return view;
}

void PairKAN::evaluate(const Graph &graph)
{
  if (graph.num_edges == 0) {
    if (builder_->layout() == Layout::EXCHANGE) run_model(graph);    // for the other ranks
    add_isolated_energies(graph);
    return;
  }
  const auto outputs = run_model(graph);
  add_energies(graph, outputs.at(0));
  if (model_->manifest().convention == Convention::EDGE_FORCES)
    add_edge_forces(graph, outputs.at(1));
  else
    add_node_forces(graph, outputs.at(1), outputs.at(2));
}

std::vector<Array> PairKAN::run_model(const Graph &graph)
{
  if (builder_->layout() != Layout::EXCHANGE) return model_->run(graph);
  return exchange_.run(*model_, graph, num_exchanges_);
}

// Atoms that neigh_modify exclude takes out of all their pairs, as fix gcmc does with one that it
// tries to delete, are not there: their energies when isolated do not count. Where only some pairs
// are excluded the atom stays.
void PairKAN::find_absent_atoms()
{
  absent_.clear();
  for (int k = 0; k < neighbor->nex_group; ++k) {
    const bool first_is_all = neighbor->ex1_group[k] == 0;
    const bool second_is_all = neighbor->ex2_group[k] == 0;
    if (first_is_all == second_is_all) continue;    // of all with all: pairs alone
    absent_.resize(atom->nlocal, 0);
    for (int i = 0; i < atom->nlocal; ++i)
      if ((first_is_all && (atom->mask[i] & neighbor->ex2_bit[k])) ||
          (second_is_all && (atom->mask[i] & neighbor->ex1_bit[k])))
        absent_[i] = 1;
  }
}

bool PairKAN::is_absent(int i) const
{
  return i < static_cast<int>(absent_.size()) && absent_[i];
}

double PairKAN::energy_of_absent_atoms() const
{
  double energy = 0.0;
  for (std::size_t i = 0; i < absent_.size(); ++i) {
    const int type = types_.model_type[atom->type[i]];
    if (absent_[i] && type >= 0) energy += model_->manifest().isolated_energies[type];
  }
  return energy;
}

void PairKAN::add_isolated_energies(const Graph &graph)
{
  const auto &energies = model_->manifest().isolated_energies;
  for (std::int64_t i = 0; i < graph.num_local; ++i) {
    if (is_absent(graph.node_atoms[i])) continue;
    const double energy = energies[graph.atom_types[i]];
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[graph.node_atoms[i]] += energy;
  }
}

void PairKAN::add_energies(const Graph &graph, const Array &energies)
{
  check_values(lmp, "energies", graph, energies.data, graph.num_local, 1);
  for (std::int64_t i = 0; i < graph.num_local; ++i) {
    if (is_absent(graph.node_atoms[i])) continue;
    const double energy = energies.data[i];
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[graph.node_atoms[i]] += energy;
  }
}

/* ----------------------------------------------------------------------
   F_centre += g, F_neighbour -= g, W = -sum r ⊗ g with g = dE/dr of an edge (kan_md/contract.py).
   The virial of an edge belongs to its neighbour: with U = sum U_i, J = sum_j v_j . sum_i (r_i - r_j)
   ⊗ dU_i/dr_j is the potential part of the heat flux (Fan et al., Phys. Rev. B 92, 094301 (2015)).
------------------------------------------------------------------------- */

void PairKAN::add_edge_forces(const Graph &graph, const Array &edge_forces)
{
  const bool per_atom = vflag_atom || cvflag_atom;
  const std::size_t nodes = graph.num_nodes;
  const std::int64_t edges = graph.num_edges;
  const int max_threads = comm->nthreads;
  tally_.force.assign(max_threads * nodes * 3, 0.0);
  tally_.virial.assign(per_atom ? max_threads * nodes * 9 : 0, 0.0);
  tally_.total.assign(max_threads * 9, 0.0);
  int num_threads = 1;

  kan_md::in_parallel(max_threads, [&](int thread, int threads) {
    if (thread == 0) num_threads = threads;
    double *const force_of = tally_.force.data() + thread * nodes * 3;
    double *const virial_of = per_atom ? tally_.virial.data() + thread * nodes * 9 : nullptr;
    double total[9] = {0.0};
    for (std::int64_t e = edges * thread / threads; e < edges * (thread + 1) / threads; ++e) {
      const double *const r = graph.edge_vectors.data() + 3 * e;
      const double *const g = edge_forces.data + 3 * e;
      double *const centre = force_of + 3 * graph.edge_index[e];
      const std::int64_t neighbour = graph.edge_index[edges + e];
      for (int a = 0; a < 3; ++a) {
        centre[a] += g[a];
        force_of[3 * neighbour + a] -= g[a];
        for (int b = 0; b < 3; ++b) {
          const double w = -r[a] * g[b];
          total[3 * a + b] += w;
          if (per_atom) virial_of[9 * neighbour + 3 * a + b] += w;
        }
      }
    }
    std::copy(total, total + 9, tally_.total.begin() + 9 * thread);
  });

  // In the order of the threads, so that equal runs give equal bits.
  for (int thread = 1; thread < num_threads; ++thread) {
    const double *const part = tally_.force.data() + thread * nodes * 3;
    for (std::size_t k = 0; k < nodes * 3; ++k) tally_.force[k] += part[k];
    for (std::size_t k = 0; per_atom && k < nodes * 9; ++k)
      tally_.virial[k] += tally_.virial[thread * nodes * 9 + k];
    for (int k = 0; k < 9; ++k) tally_.total[k] += tally_.total[9 * thread + k];
  }

  add_to_atoms(graph, tally_.force.data(), per_atom ? tally_.virial.data() : nullptr);
  add_virial(graph, tally_.total.data());
}

// Forces [num_nodes, 3] and, where they are asked for, virials [num_nodes, 3, 3] of nodes.
void PairKAN::add_to_atoms(const Graph &graph, const double *forces, const double *virials)
{
  check_values(lmp, "forces", graph, forces, graph.num_nodes, 3);
  for (std::int64_t node = 0; node < graph.num_nodes; ++node)
    add_to_atom(graph.node_atoms[node], forces + 3 * node, virials ? virials + 9 * node : nullptr);
  if (cvflag_atom) warn_of_heat_flux();
}

void PairKAN::add_to_atom(int i, const double *force, const double *w)
{
  const bool aside = return_width_ && i >= atom->nlocal;
  double *const back =
      aside ? ghost_return_.data() + static_cast<std::size_t>(i) * return_width_ : nullptr;
  double *const target = aside ? back : atom->f[i];
  for (int a = 0; a < 3; ++a) target[a] += force[a];
  if (vflag_atom) {
    double *const v = aside ? back + 3 : vatom[i];
    for (int a = 0; a < 3; ++a) v[a] += w[4 * a];
    v[3] += 0.5 * (w[1] + w[3]);
    v[4] += 0.5 * (w[2] + w[6]);
    v[5] += 0.5 * (w[5] + w[7]);
  }
  if (cvflag_atom) {
    double *const v = aside ? back + (vflag_atom ? 9 : 3) : cvatom[i];
    for (int a = 0; a < 9; ++a) v[a] += w[CENTROID[a]];
  }
}

void PairKAN::add_virial(const Graph &graph, const double *w)
{
  const double sum = std::accumulate(w, w + 9, 0.0);
  if (!std::isfinite(sum)) {
    const std::vector<double> shares(graph.num_nodes, sum);
    check_values(lmp, "virials", graph, shares.data(), graph.num_nodes, 1);
  }
  if (vflag_global) add_virial(w);
}

void PairKAN::add_virial(const double *w)
{
  for (int a = 0; a < 3; ++a) virial[a] += w[4 * a];
  virial[3] += 0.5 * (w[1] + w[3]);
  virial[4] += 0.5 * (w[2] + w[6]);
  virial[5] += 0.5 * (w[5] + w[7]);
}

void PairKAN::add_node_forces(const Graph &graph, const Array &forces, const Array &virial_3x3)
{
  if (vflag_atom || cvflag_atom)
    throw kan_md::Error("per-atom virial needs a file of kan-md deploy", "a file of nequip-compile",
                        "", "deploy the model with kan-md deploy");
  add_to_atoms(graph, forces.data, nullptr);
  add_virial(graph, virial_3x3.data);
}

/* ---------------------------------------------------------------------- */

void PairKAN::return_ghost_forces()
{
  send_to_owners(comm, this, return_width_);
}

int PairKAN::pack_reverse_comm(int n, int first, double *buffer)
{
  const double *const from = ghost_return_.data() + static_cast<std::size_t>(first) * return_width_;
  std::copy(from, from + static_cast<std::size_t>(n) * return_width_, buffer);
  return n * return_width_;
}

// A ghost of a ghost passes on what it receives: rows of ghosts collect, rows of owned atoms arrive.
void PairKAN::unpack_reverse_comm(int n, int *atoms, double *buffer)
{
  for (int k = 0; k < n; ++k, buffer += return_width_) {
    const int i = atoms[k];
    if (i >= atom->nlocal) {
      double *const row = ghost_return_.data() + static_cast<std::size_t>(i) * return_width_;
      for (int a = 0; a < return_width_; ++a) row[a] += buffer[a];
      continue;
    }
    const double *value = buffer;
    for (int a = 0; a < 3; ++a) atom->f[i][a] += *value++;
    if (vflag_atom)
      for (int a = 0; a < 6; ++a) vatom[i][a] += *value++;
    if (cvflag_atom)
      for (int a = 0; a < 9; ++a) cvatom[i][a] += *value++;
  }
}
