/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "pair_kan.h"

#include "core/error.h"
#include "core/images.h"
#include "core/memory.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>

using namespace LAMMPS_NS;
using kan_md::Array;
using kan_md::Convention;
using kan_md::Graph;
using kan_md::Layout;

namespace {

// Positions of LAMMPS' nine centroid components xx yy zz xy xz yz yx zx zy in a row-major matrix.
constexpr int CENTROID[9] = {0, 4, 8, 1, 2, 5, 3, 6, 7};
constexpr double MEGABYTE = 1024.0 * 1024.0;

// Isotopes and rounded masses (H 1.0, C 12) pass; neighbours in the periodic table do not.
double mass_tolerance(double mass)
{
  return std::max(0.02, 0.003 * mass);
}

int rank_on_node(MPI_Comm world)
{
  MPI_Comm node;
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int rank = 0;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_free(&node);
  return rank;
}

}    // namespace

/* ---------------------------------------------------------------------- */

PairKAN::PairKAN(LAMMPS *lmp, const char *style) :
    Pair(lmp), style_(style), check_mass_(true), keep_(kan_md::Keep::STEP), return_width_(0),
    user_cutghost_(0.0), own_cutghost_(0.0), lists_seen_(-1), start_reported_(false),
    cuda_peak_allocated_(0.0), cuda_peak_reserved_(0.0), close_edges_(0), warned_of_close_(false),
    warned_of_virial_(false)
{
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  no_virial_fdotr_compute = 1;    // ghosts of the halo would count with the wrong positions
  centroidstressflag = CENTROID_AVAIL;
  comm_forward = 1;         // identities
  comm_reverse_off = 18;    // force, per-atom virials
  device_.local_rank = rank_on_node(world);
}

PairKAN::~PairKAN()
{
  if (comm && own_cutghost_ > 0.0 && comm->cutghostuser == own_cutghost_)
    comm->cutghostuser = user_cutghost_;
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

/* ----------------------------------------------------------------------
   errors: the core throws, these two turn what was thrown into LAMMPS' errors
------------------------------------------------------------------------- */

std::string PairKAN::explain(const std::string &problem) const
{
  std::string line = problem;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return "pair_style " + style_ + (file_.empty() ? "" : ": " + file_) + ": " + line;
}

template <typename Body> void PairKAN::guard(Body &&body)
{
  std::string problem;
  try {
    body();
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::bad_alloc &) {
    problem = "out of memory; use fewer atoms per rank or a smaller model";
  } catch (const std::exception &failure) {
    problem = failure.what();
  }
  if (!problem.empty()) error->one(FLERR, explain(problem));
}

template <typename Body> void PairKAN::guard_together(Body &&body)
{
  std::string problem;
  try {
    body();
  } catch (const LAMMPSException &) {
    throw;
  } catch (const std::exception &failure) {
    problem = failure.what();
  }
  // The message of the first rank that failed: error->all must be reached by every rank.
  int mine = problem.empty() ? comm->nprocs : comm->me;
  int first = 0;
  MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, world);
  if (first == comm->nprocs) return;
  int size = static_cast<int>(problem.size());
  MPI_Bcast(&size, 1, MPI_INT, first, world);
  problem.resize(size);
  MPI_Bcast(problem.data(), size, MPI_CHAR, first, world);
  error->all(FLERR, explain(problem));
}

/* ----------------------------------------------------------------------
   pair_style allegro | nequip | mace [device auto|cpu|cuda] [mass check|ignore]
              [keep step|list|nothing]
------------------------------------------------------------------------- */

void PairKAN::settings(int narg, char **arg)
{
  guard_together([&] {
    for (int i = 0; i < narg; i += 2) {
      const std::string key = arg[i];
      const std::string value = i + 1 < narg ? arg[i + 1] : "";
      if (key == "device" && !value.empty())
        device_.device = value;
      else if (key == "keep" && value == "step")
        keep_ = kan_md::Keep::STEP;
      else if (key == "keep" && value == "list")
        keep_ = kan_md::Keep::LIST;
      else if (key == "keep" && value == "nothing")
        keep_ = kan_md::Keep::NOTHING;
      else if (key == "mass" && (value == "check" || value == "ignore"))
        check_mass_ = value == "check";
      else
        throw kan_md::Error("keywords of the pair_style command",
                            value.empty() ? key : key + " " + value,
                            "device auto|cpu|cuda, mass check|ignore, keep step|list|nothing",
                            "name the model file in pair_coeff");
    }
  });
}

/* ----------------------------------------------------------------------
   pair_coeff * * FILE ELEMENT|NULL ... (one for each atom type)
------------------------------------------------------------------------- */

void PairKAN::coeff(int narg, char **arg)
{
  guard_together([&] {
    if (narg < 3 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
      throw kan_md::Error("pair_coeff must be: pair_coeff * * FILE ELEMENT ...",
                          narg < 3 ? std::to_string(narg) + " arguments"
                                   : std::string(arg[0]) + " " + arg[1],
                          "", "one model file serves all atom types");
    load_model(arg[2]);
    check_model();
    allocate();
    map_types(narg - 3, arg + 3);
  });
}

void PairKAN::allocate()
{
  if (allocated) return;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  memory->create(cutghost, n, n, "pair:cutghost");
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      setflag[i][j] = 0;
      cutsq[i][j] = cutghost[i][j] = 0.0;
    }
  allocated = 1;
}

void PairKAN::load_model(const std::string &file)
{
  file_ = file;
  const std::string path = utils::get_potential_file_path(file);
  resident_.reset();
  model_ = kan_md::load_compiled_model(path.empty() ? file : path, device_);
  start_reported_ = false;
}

void PairKAN::check_model() const
{
  const auto &manifest = model_->manifest();
  if (manifest.kind != "potential")
    throw kan_md::Error("model file must be a potential",
                        "a model of tensor properties (" + manifest.backbone + ")", "",
                        "use compute kanmd/tensor for it");
  if (manifest.backbone != style_)
    throw kan_md::Error((manifest.backbone == "allegro" ? "this is an " : "this is a ") +
                        manifest.backbone + " model; use pair_style " + manifest.backbone);
}

void PairKAN::map_types(int num_names, char **names)
{
  const auto &manifest = model_->manifest();
  const int n = atom->ntypes + 1;
  if (num_names != atom->ntypes)
    throw kan_md::Error("pair_coeff must name one element (or NULL) for each of the " +
                            std::to_string(atom->ntypes) + " atom types",
                        std::to_string(num_names) + " names", "",
                        "list the elements in the order of the atom types");
  types_.stride = n;
  types_.model_type.assign(n, -1);
  types_.cutoff_sq.assign(static_cast<std::size_t>(n) * n, 0.0);
  types_.min_distance_sq.assign(static_cast<std::size_t>(n) * n, 0.0);
  bool any = false;
  for (int i = 1; i < n; ++i) {
    const std::string name = names[i - 1];
    if (name == "NULL") continue;
    types_.model_type[i] = manifest.type_of(name);
    any = true;
    if (types_.model_type[i] < 0)
      throw kan_md::Error("element of atom type " + std::to_string(i), name,
                          manifest.known_types() + ", NULL",
                          "use a model trained with this element");
  }
  if (!any)
    throw kan_md::Error("pair_coeff must name an element", "NULL for every atom type",
                        manifest.known_types(), "map at least one atom type");
  for (int i = 1; i < n; ++i)
    for (int j = 1; j < n; ++j) {
      const int a = types_.model_type[i], b = types_.model_type[j];
      setflag[i][j] = a >= 0 && b >= 0 && i <= j;
      if (a < 0 || b < 0) continue;
      const double cutoff = manifest.cutoffs[a * manifest.num_types() + b];
      const double closest = manifest.min_distances[a * manifest.num_types() + b];
      types_.cutoff_sq[i * n + j] = cutoff * cutoff;
      types_.min_distance_sq[i * n + j] = closest * closest;
    }
}

/* ---------------------------------------------------------------------- */

void PairKAN::init_style()
{
  lists_seen_ = -1;
  guard_together([&] {
    if (!model_)
      throw kan_md::Error("pair_coeff must name a model file", "no pair_coeff command", "",
                          "add: pair_coeff * * FILE ELEMENT ...");
    if (strcmp(update->unit_style, "metal") != 0)
      throw kan_md::Error("units must be metal", update->unit_style, "metal",
                          "set units metal at the top of the input");
    if (check_mass_) check_masses();
    const auto &manifest = model_->manifest();
    const Layout layout = choose_layout(manifest.num_layers, comm->nprocs);
    if (layout == Layout::HALO && manifest.convention == Convention::NODE_FORCES)
      throw kan_md::Error("a message-passing file of nequip-compile runs on one rank",
                          std::to_string(comm->nprocs) + " ranks", "1",
                          "deploy the model with kan-md deploy to use several");
    if (!builder_ || builder_->layout() != layout)
      builder_ = std::make_unique<kan_md::GraphBuilder>(layout, manifest.num_layers);
    if (layout == Layout::HALO)    // its nodes depend on the positions
      resident_.reset();
    else if (!resident_)
      resident_ = model_->make_resident(keep_);
    request_ghosts();
  });
  check_special_bonds();
  model_->set_num_threads(comm->nthreads);
  const auto &manifest = model_->manifest();
  if (manifest.threads > 0 && manifest.threads != comm->nthreads && comm->me == 0)
    error->warning(FLERR, explain("the file was compiled for " + std::to_string(manifest.threads) +
                                  " threads per rank, this run has " +
                                  std::to_string(comm->nthreads) + "; deploy it again for these"));
}

void PairKAN::check_masses() const
{
  const auto &manifest = model_->manifest();
  if (!atom->mass || atom->rmass_flag || manifest.masses.empty()) return;
  for (int i = 1; i <= atom->ntypes; ++i) {
    const int type = types_.model_type[i];
    if (type < 0 || !atom->mass_setflag[i] || manifest.masses[type] <= 0.0) continue;
    const double known = manifest.masses[type];
    if (std::abs(atom->mass[i] - known) > mass_tolerance(known))
      throw kan_md::Error("mass of atom type " + std::to_string(i) + ", mapped to " +
                              manifest.type_names[type],
                          std::to_string(atom->mass[i]) + " u", std::to_string(known) + " u",
                          "list the elements in pair_coeff in the order of the atom types, or mend "
                          "the mass command (pair_style keyword mass ignore for isotopes)");
  }
}

void PairKAN::check_special_bonds() const
{
  if (!atom->molecular || comm->me != 0) return;
  for (int k = 1; k <= 3; ++k)
    if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0) {
      error->warning(FLERR,
                     explain("special_bonds takes bonded neighbours out of the model's sight; "
                             "use special_bonds lj/coul 1 1 1 unless that is meant"));
      return;
    }
}

// In layout HALO asks LAMMPS for ghosts out to the last hop and for the neighbours of ghosts.
void PairKAN::request_ghosts()
{
  const bool halo = builder_->layout() == Layout::HALO;
  ghostneigh = halo;
  neighbor->add_request(this,
                        halo ? NeighConst::REQ_FULL | NeighConst::REQ_GHOST : NeighConst::REQ_FULL);
  if (!halo) return;
  const double cutoff = halo_cutoff();
  const std::string need = std::to_string(model_->manifest().num_layers) + " layers x " +
                           std::to_string(model_->manifest().r_max) +
                           " Å + skin = " + std::to_string(cutoff) + " Å";
  if (comm->mode != Comm::SINGLE)
    throw kan_md::Error("comm_modify mode must be single for message passing on several ranks",
                        "multi", "single", "remove comm_modify mode multi");
  if (comm->style == Comm::TILED)
    for (int d = 0; d < 3; ++d)
      if (domain->periodicity[d] && cutoff > domain->prd[d])
        throw kan_md::Error("ghost cutoff of the halo (" + need +
                                ") must fit into the box with comm_style tiled",
                            "a periodic length of " + std::to_string(domain->prd[d]) + " Å", "",
                            "use comm_style brick, a larger box, or one rank");
  if (comm->cutghostuser != own_cutghost_) user_cutghost_ = comm->cutghostuser;
  own_cutghost_ = comm->cutghostuser = std::max(user_cutghost_, cutoff);
}

double PairKAN::halo_cutoff() const
{
  const auto &manifest = model_->manifest();
  return manifest.num_layers * manifest.r_max + neighbor->skin;
}

double PairKAN::init_one(int i, int j)
{
  const auto &cutoff_sq = types_.cutoff_sq;
  const int n = types_.stride;
  const double cutoff = std::sqrt(std::max(cutoff_sq[i * n + j], cutoff_sq[j * n + i]));
  cutghost[i][j] = cutghost[j][i] = cutoff;
  return cutoff;
}

/* ---------------------------------------------------------------------- */

void PairKAN::compute(int eflag, int vflag)
{
  ev_init(eflag, vflag);
  const bool new_lists = lists_are_new();
  if (new_lists && builder_->layout() != Layout::LOCAL_WITH_GHOSTS) find_images();

  // With newton off LAMMPS drops what is added to ghosts, so their share waits here.
  const bool own_return = !force->newton_pair && builder_->layout() != Layout::PERIODIC_IMAGES;
  return_width_ = own_return ? 3 + (vflag_atom ? 6 : 0) + (cvflag_atom ? 9 : 0) : 0;
  ghost_return_.assign(static_cast<std::size_t>(return_width_) * (atom->nlocal + atom->nghost),
                       0.0);

  if (resident_) {
    if (new_lists) send_list();
    compute_resident();
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

// The graph of the present positions goes to the model.
void PairKAN::compute_sent()
{
  const Graph *graph = nullptr;
  guard(
      [&] { graph = &builder_->build(view_atoms(), types_, first_image_.data(), comm->nthreads); });
  if (!start_reported_) report_start(*graph);
  warn_of_close_atoms(graph->num_close_edges);
  guard([&] { evaluate(*graph); });
}

// The present positions go to the model, which has the neighbour list.
void PairKAN::compute_resident()
{
  kan_md::StepResult result;
  const bool per_atom = eflag_atom || vflag_atom || cvflag_atom;
  guard([&] {
    kan_md::check_positions(view_atoms());
    result = resident_->step(atom->x, per_atom);
    if (!std::isfinite(result.energy) && !per_atom) result = resident_->step(atom->x, true);
    if (result.energies)
      add_energies(list_, {result.energies, {list_.num_nodes, 1}});
    else if (eflag_global)
      eng_vdwl += result.energy;
    add_to_atoms(list_, result.forces, result.virials);
    add_virial(result.virial);
  });
  warn_of_close_atoms(result.num_close_edges);
}

void PairKAN::send_list()
{
  const auto build = [&](const kan_md::TypeTable &types) -> const Graph & {
    return builder_->build(view_atoms(), types, first_image_.data(), comm->nthreads);
  };
  if (!start_reported_) {
    const Graph *graph = nullptr;
    guard([&] { graph = &build(types_); });
    report_start(*graph);
  }
  guard([&] {
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
  comm->forward_comm(this);
  kan_md::find_first_images(identity_, first_image_);
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
    add_isolated_energies(graph);
    return;
  }
  const auto outputs = model_->run(graph);
  add_energies(graph, outputs.at(0));
  if (model_->manifest().convention == Convention::EDGE_FORCES)
    add_edge_forces(graph, outputs.at(1));
  else
    add_node_forces(graph, outputs.at(1), outputs.at(2));
}

void PairKAN::add_isolated_energies(const Graph &graph)
{
  const auto &energies = model_->manifest().isolated_energies;
  for (std::int64_t i = 0; i < graph.num_local; ++i) {
    const double energy = energies[graph.atom_types[i]];
    if (eflag_global) eng_vdwl += energy;
    if (eflag_atom) eatom[graph.node_atoms[i]] += energy;
  }
}

void PairKAN::add_energies(const Graph &graph, const Array &energies)
{
  for (std::int64_t i = 0; i < graph.num_local; ++i) {
    const double energy = energies.data[i];
    if (!std::isfinite(energy))
      throw kan_md::Error("energy of atom ID " + std::to_string(atom->tag[graph.node_atoms[i]]) +
                              " must be a finite number",
                          std::to_string(energy), "",
                          "atoms are likely far from all training data: reduce the timestep, "
                          "minimize first, or check the structure");
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

#pragma omp parallel num_threads(max_threads)
  {
    const int thread = omp_get_thread_num();
    const int threads = omp_get_num_threads();
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
  }

  // In the order of the threads, so that equal runs give equal bits.
  for (int thread = 1; thread < num_threads; ++thread) {
    const double *const part = tally_.force.data() + thread * nodes * 3;
    for (std::size_t k = 0; k < nodes * 3; ++k) tally_.force[k] += part[k];
    for (std::size_t k = 0; per_atom && k < nodes * 9; ++k)
      tally_.virial[k] += tally_.virial[thread * nodes * 9 + k];
    for (int k = 0; k < 9; ++k) tally_.total[k] += tally_.total[9 * thread + k];
  }

  add_to_atoms(graph, tally_.force.data(), per_atom ? tally_.virial.data() : nullptr);
  add_virial(tally_.total.data());
}

// Forces [num_nodes, 3] and, where they are asked for, virials [num_nodes, 3, 3] of nodes.
void PairKAN::add_to_atoms(const Graph &graph, const double *forces, const double *virials)
{
  double **const f = atom->f;
  for (std::int64_t node = 0; node < graph.num_nodes; ++node) {
    const int i = graph.node_atoms[node];
    const double *const w = virials ? virials + 9 * node : nullptr;
    const bool aside = return_width_ && i >= atom->nlocal;
    double *const back =
        aside ? ghost_return_.data() + static_cast<std::size_t>(i) * return_width_ : nullptr;
    double *const target = aside ? back : f[i];
    for (int a = 0; a < 3; ++a) target[a] += forces[3 * node + a];
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
  if (cvflag_atom) warn_of_heat_flux();
}

void PairKAN::add_virial(const double *w)
{
  if (!vflag_global) return;
  for (int a = 0; a < 3; ++a) virial[a] += w[4 * a];
  virial[3] += 0.5 * (w[1] + w[3]);
  virial[4] += 0.5 * (w[2] + w[6]);
  virial[5] += 0.5 * (w[5] + w[7]);
}

void PairKAN::warn_of_heat_flux()
{
  if (model_->manifest().num_layers == 1 || warned_of_virial_) return;
  warned_of_virial_ = true;
  if (comm->me == 0)
    error->warning(FLERR, explain("per-atom virials of a message-passing model add up to the exact "
                                  "pressure, but a heat flux made of them leaves out what messages "
                                  "carry beyond one neighbour"));
}

void PairKAN::add_node_forces(const Graph &graph, const Array &forces, const Array &virial_3x3)
{
  if (vflag_atom || cvflag_atom)
    throw kan_md::Error("per-atom virial needs a file of kan-md deploy", "a file of nequip-compile",
                        "", "deploy the model with kan-md deploy");
  add_to_atoms(graph, forces.data, nullptr);
  add_virial(virial_3x3.data);
}

/* ---------------------------------------------------------------------- */

void PairKAN::return_ghost_forces()
{
  comm->reverse_comm(this, return_width_);
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

/* ----------------------------------------------------------------------
   what the user is told
------------------------------------------------------------------------- */

void PairKAN::report_start(const Graph &graph)
{
  start_reported_ = true;
  double forecast = 0.0;
  guard([&] { forecast = forecast_memory(graph); });
  bigint counts[3] = {graph.num_local, graph.num_nodes - graph.num_local, graph.num_edges};
  bigint totals[3];
  MPI_Allreduce(counts, totals, 3, MPI_LMP_BIGINT, MPI_SUM, world);
  double largest = 0.0;
  MPI_Allreduce(&forecast, &largest, 1, MPI_DOUBLE, MPI_MAX, world);
  if (comm->me != 0) return;

  utils::logmesg(
      lmp,
      "pair_style {}: {}, {}{}, layout {}, {} atoms, {} ghosts, {} edges, about {:.0f} MB "
      "per rank\n",
      style_, file_, model_->description(), resident_ ? ", " + resident_->description() : "",
      kan_md::name_of(builder_->layout()), totals[0], totals[1], totals[2], largest / MEGABYTE);
  const auto available = static_cast<double>(kan_md::available_bytes() + kan_md::resident_bytes());
  if (available > 0.0 && largest > available)
    error->warning(FLERR, explain(fmt::format("about {:.0f} MB are needed per rank, {:.0f} MB are "
                                              "available; use fewer atoms per rank or float32",
                                              largest / MEGABYTE, available / MEGABYTE)));
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
    error->warning(FLERR,
                   explain(std::to_string((total + 1) / 2) +
                           " pair(s) of atoms are closer than any pair in the training data; "
                           "the model extrapolates there (the total follows after the run)"));
}

void PairKAN::finish()
{
  bigint total = 0;
  MPI_Allreduce(&close_edges_, &total, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  if (total > 0 && comm->me == 0)
    error->warning(FLERR,
                   explain(std::to_string((total + 1) / 2) +
                           " pair(s), summed over all steps, were closer than any pair in the "
                           "training data"));
  close_edges_ = 0;
  warned_of_close_ = false;
}

double PairKAN::memory_usage()
{
  const std::size_t doubles =
      tally_.force.capacity() + tally_.virial.capacity() + ghost_return_.capacity();
  return Pair::memory_usage() +
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
