/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "compute_kanmd_tensor.h"

#include "core/error.h"
#include "core/same_atoms.h"
#include "core/text.h"
#include "core/type_map.h"
#include "fix_kanmd_ghosts.h"
#include "guard.h"
#include "kanmd_checks.h"
#include "kanmd_files.h"
#include "kanmd_node.h"

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cstring>

using namespace LAMMPS_NS;
using kan_md::Graph;
using kan_md::Layout;
using kan_md::text_of;

/* ---------------------------------------------------------------------- */

ComputeKanmdTensor::ComputeKanmdTensor(LAMMPS *lmp, int narg, char **arg) :
    Compute(lmp, narg, arg), style_(std::string("compute ") + id + " kanmd/tensor"), nmax_(0)
{
  comm_forward = 1;    // identities
  guard_together(lmp, style_, [&] { read_arguments(narg, arg); });

  if (tensor_.per_atom) {
    peratom_flag = 1;
    size_peratom_cols = tensor_.num_columns == 1 ? 0 : tensor_.num_columns;
  } else if (tensor_.num_columns == 1) {
    scalar_flag = 1;
    extscalar = tensor_.sum ? 1 : 0;
  } else {
    vector_flag = 1;
    size_vector = tensor_.num_columns;
    extvector = tensor_.sum ? 1 : 0;
    vector = new double[size_vector];
  }
  total_.assign(tensor_.num_columns, 0.0);
  guard_together(lmp, style_, [&] { FixKanmdGhosts::expect(lmp, this); });
}

ComputeKanmdTensor::~ComputeKanmdTensor()
{
  FixKanmdGhosts::forget(lmp, this);
  delete[] vector;
  memory->destroy(vector_atom);
  memory->destroy(array_atom);
}

/* ---------------------------------------------------------------------- */

void ComputeKanmdTensor::read_arguments(int narg, char **arg)
{
  if (narg < 5)
    throw kan_md::Error("must be: compute ID group kanmd/tensor FILE TENSOR [ELEMENT ...]",
                        std::to_string(narg) + " arguments", "", "add what is missing");
  file_ = arg[3];
  int end = narg;
  if (narg >= 7 && strcmp(arg[narg - 2], "device") == 0) {
    device_.device = arg[narg - 1];
    if (device_.device != "auto" && device_.device != "cpu" && device_.device != "cuda")
      throw kan_md::Error("keyword device", device_.device, "auto, cpu, cuda", "choose one");
    end = narg - 2;
  }
  device_.local_rank = KanmdNode(world).rank();

  model_ = kan_md::load_compiled_model(find_model_file(file_), device_);
  tensor_ = kan_md::find_tensor(model_->manifest(), arg[4]);
  types_ = kan_md::map_types(
      model_->manifest(), end > 5 ? std::vector<std::string>(arg + 5, arg + end) : names_by_mass(),
      atom->ntypes);
}

// Where the input names no elements, masses tell them.
std::vector<std::string> ComputeKanmdTensor::names_by_mass() const
{
  const auto &manifest = model_->manifest();
  std::vector<std::string> names;
  for (int i = 1; i <= atom->ntypes; ++i) {
    if (!atom->mass || !atom->mass_setflag[i])
      throw kan_md::Error("element of atom type " + std::to_string(i),
                          "no name and no mass to tell it by", manifest.known_types() + ", NULL",
                          "list the elements in the order of the atom types");
    std::string found;
    for (int type = 0; type < manifest.num_types(); ++type)
      if (kan_md::is_mass_of(manifest.masses[type], atom->mass[i]))
        found = manifest.type_names[type];
    if (found.empty())
      throw kan_md::Error("element of atom type " + std::to_string(i),
                          "a mass of " + text_of(atom->mass[i]) + " u that is none of theirs",
                          manifest.known_types(),
                          "list the elements in the order of the atom types");
    names.push_back(found);
  }
  return names;
}

void ComputeKanmdTensor::check_masses() const
{
  const auto &manifest = model_->manifest();
  if (!atom->mass || atom->rmass_flag) return;
  for (int i = 1; i <= atom->ntypes; ++i) {
    const int type = types_.model_type[i];
    if (type < 0 || !atom->mass_setflag[i]) continue;
    const double known = manifest.masses[type];
    if (!kan_md::is_mass_of(known, atom->mass[i]) && comm->me == 0)
      error->warning(
          FLERR, one_line(style_, fmt::format("atom type {} is mapped to {} ({} u) and "
                                              "has a mass of {} u; check the order of the "
                                              "elements",
                                              i, manifest.type_names[type], known, atom->mass[i])));
  }
}

/* ---------------------------------------------------------------------- */

void ComputeKanmdTensor::init()
{
  guard_together(lmp, style_, [&] {
    if (strcmp(update->unit_style, "metal") != 0)
      throw kan_md::Error("units must be metal", update->unit_style, "metal",
                          "set units metal at the top of the input");
    if (!tensor_.per_atom && !tensor_.sum)
      for (int d = 0; d < 3; ++d)
        if (!domain->periodicity[d])
          throw kan_md::Error(tensor_.name + " is a crystal's tensor and needs a box periodic in "
                                             "three directions",
                              std::string("a boundary along ") + "xyz"[d], "boundary p p p",
                              "change the boundary command");
    const int hops = model_->manifest().num_layers;
    const Layout layout = comm->nprocs == 1 ? Layout::PERIODIC_IMAGES : Layout::HALO;
    if (!builder_ || builder_->layout() != layout)
      builder_ = std::make_unique<kan_md::GraphBuilder>(layout, hops);
    request_ghosts();
  });
  check_masses();
  model_->set_num_threads(comm->nthreads);
}

// How far ghosts must reach: one cutoff where ghosts are their owners, else all that an atom sees.
double ComputeKanmdTensor::cutoff_of_ghosts() const
{
  const double r_max = model_->manifest().r_max;
  return builder_->layout() == Layout::HALO ? std::max(r_max, tensor_.receptive_field) : r_max;
}

void ComputeKanmdTensor::request_ghosts()
{
  if (comm->mode != Comm::SINGLE)
    throw kan_md::Error("comm_modify mode must be single", "multi", "single",
                        "remove comm_modify mode multi");
  const double cutoff = cutoff_of_ghosts() + neighbor->skin;
  if (comm->style == Comm::TILED)
    for (int d = 0; d < 3; ++d)
      if (const double height = FixKanmdGhosts::height(lmp, d);
          domain->periodicity[d] && cutoff > height)
        throw kan_md::Error("ghost cutoff (" + text_of(cutoff) +
                                " Å) must fit into the box with comm_style tiled",
                            "a periodic height of " + text_of(height) + " Å", "",
                            "use comm_style brick or a larger box");
  FixKanmdGhosts::want(lmp, this, cutoff);
}

// The skin is for atoms that move until LAMMPS makes its ghosts anew.
void ComputeKanmdTensor::check_ghosts() const
{
  const double needed = cutoff_of_ghosts() + neighbor->skin,
               found = FixKanmdGhosts::ghost_distance(lmp);
  if (found < needed * (1.0 - 1e-9))
    throw kan_md::Error(
        "ghosts must reach " + text_of(needed) + " Å out", text_of(found) + " Å", "",
        "use the compute in a run, or set comm_modify cutoff " + text_of(needed) + " before it");
}

/* ---------------------------------------------------------------------- */

void ComputeKanmdTensor::compute_peratom()
{
  invoked_peratom = update->ntimestep;
  if (atom->nmax > nmax_) {
    nmax_ = atom->nmax;
    memory->destroy(vector_atom);
    memory->destroy(array_atom);
    if (size_peratom_cols == 0)
      memory->create(vector_atom, nmax_, "kanmd/tensor:vector_atom");
    else
      memory->create(array_atom, nmax_, size_peratom_cols, "kanmd/tensor:array_atom");
  }
  evaluate();

  const int columns = tensor_.num_columns;
  double *const out = size_peratom_cols == 0 ? vector_atom
                      : atom->nlocal > 0     ? array_atom[0]
                                             : nullptr;
  if (!out) return;
  std::fill(out, out + static_cast<std::size_t>(atom->nlocal) * columns, 0.0);
  for (std::size_t k = 0; k < centres_.size(); ++k) {
    const int i = centres_[k];
    if (!(atom->mask[i] & groupbit)) continue;
    for (int c = 0; c < columns; ++c)
      out[static_cast<std::size_t>(i) * columns + c] =
          rows_[k * columns + c] - (tensor_.acoustic_sum_rule ? total_[c] : 0.0);
  }
}

void ComputeKanmdTensor::compute_vector()
{
  invoked_vector = update->ntimestep;
  evaluate();
  std::copy(total_.begin(), total_.end(), vector);
}

double ComputeKanmdTensor::compute_scalar()
{
  invoked_scalar = update->ntimestep;
  evaluate();
  scalar = total_[0];
  return scalar;
}

void ComputeKanmdTensor::evaluate()
{
  find_images();
  guard_together(lmp, style_, [&] {
    check_ghosts();
    read_rows(build_graph());
  });
  combine_over_atoms();
}

void ComputeKanmdTensor::find_images()
{
  identity_.resize(atom->nlocal + atom->nghost);
  for (int i = 0; i < atom->nlocal; ++i) identity_[i] = kan_md::identity_of(comm->me, i);
  comm->forward_comm(this);
  kan_md::find_same_atoms(identity_, first_image_);
}

int ComputeKanmdTensor::pack_forward_comm(int n, int *atoms, double *buffer, int, int *)
{
  for (int k = 0; k < n; ++k) buffer[k] = ubuf(identity_[atoms[k]]).d;
  return n;
}

void ComputeKanmdTensor::unpack_forward_comm(int n, int first, double *buffer)
{
  for (int k = 0; k < n; ++k) identity_[first + k] = ubuf(buffer[k]).i;
}

const Graph &ComputeKanmdTensor::build_graph()
{
  const int num_all = atom->nlocal + atom->nghost;
  use_.resize(num_all);
  centres_.clear();
  for (int i = 0; i < num_all; ++i) {
    use_[i] = types_.model_type[atom->type[i]] >= 0;
    if (use_[i] && i < atom->nlocal) centres_.push_back(i);
  }
  const bool halo = builder_->layout() == Layout::HALO;
  cells_.build(atom->x, num_all, atom->nlocal, use_, model_->manifest().r_max,
               halo ? tensor_.leg_r_max : 0.0);
  kan_md::AtomView view;
  view.x = atom->x;
  view.type = atom->type;
  view.num_all = num_all;
  view.ilist = centres_.data();
  view.inum = static_cast<int>(centres_.size());
  view.numneigh = cells_.counts();
  view.firstneigh = cells_.neighbours();
  view.neigh_mask = ~0;
  check_positions(lmp, view);
  const Graph &graph = builder_->build(view, types_, first_image_.data(), comm->nthreads);
  if (graph.num_coincident > 0) refuse_coincident_atoms(lmp, graph);
  return graph;
}

// Keeps the tensor's columns of owned atoms.
void ComputeKanmdTensor::read_rows(const Graph &graph)
{
  const int columns = tensor_.num_columns;
  rows_.resize(centres_.size() * columns);
  const double *all = nullptr;
  if (graph.num_edges > 0) all = model_->run(graph).at(0).data;
  for (std::size_t k = 0; k < centres_.size(); ++k)
    for (int c = 0; c < columns; ++c) {
      const std::size_t column = tensor_.first_column + c;
      const double value = all ? all[k * tensor_.all_columns + column]
                               : tensor_.isolated[graph.atom_types[k]][column];
      rows_[k * columns + c] = value;
    }
  check_values(lmp, tensor_.name, graph, rows_.data(), static_cast<std::int64_t>(centres_.size()),
               columns);
}

// Sum or mean over the model's atoms of all ranks.
void ComputeKanmdTensor::combine_over_atoms()
{
  if (tensor_.per_atom && !tensor_.acoustic_sum_rule) return;
  const int columns = tensor_.num_columns;
  std::vector<double> mine(columns + 1, 0.0), all(columns + 1, 0.0);
  for (std::size_t k = 0; k < centres_.size(); ++k)
    for (int c = 0; c < columns; ++c) mine[c] += rows_[k * columns + c];
  mine[columns] = static_cast<double>(centres_.size());
  MPI_Allreduce(mine.data(), all.data(), columns + 1, MPI_DOUBLE, MPI_SUM, world);
  const double count = tensor_.per_atom || !tensor_.sum ? std::max(1.0, all[columns]) : 1.0;
  for (int c = 0; c < columns; ++c) total_[c] = all[c] / count;
}

double ComputeKanmdTensor::memory_usage()
{
  return static_cast<double>(
      (static_cast<std::size_t>(nmax_) * tensor_.num_columns + rows_.capacity()) * sizeof(double) +
      first_image_.capacity() * sizeof(int) + identity_.capacity() * sizeof(std::int64_t) +
      use_.capacity());
}
