/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "kanmd_exchange.h"

#include "kanmd_comm.h"

#include "core/error.h"

#include "atom.h"
#include "comm.h"
#include "pair.h"

#include <algorithm>
#include <cstring>

using namespace LAMMPS_NS;
using kan_md::kan_md_exchange;

namespace {

// Of rows that are as wide as `bytes`.
int doubles_for(std::int64_t bytes)
{
  return static_cast<int>((bytes + sizeof(double) - 1) / sizeof(double));
}

// to += from, in doubles that hold values of type T.
template <typename T> void add(const void *from, std::size_t bytes, void *to)
{
  for (std::size_t at = 0; at < bytes; at += sizeof(T)) {
    T value, sum;
    std::memcpy(&value, static_cast<const std::byte *>(from) + at, sizeof(T));
    std::memcpy(&sum, static_cast<const std::byte *>(to) + at, sizeof(T));
    sum += value;
    std::memcpy(static_cast<std::byte *>(to) + at, &sum, sizeof(T));
  }
}

void add_values(const void *from, std::size_t bytes, int value_bytes, void *to)
{
  if (value_bytes == sizeof(float))
    add<float>(from, bytes, to);
  else
    add<double>(from, bytes, to);
}

}    // namespace

/* ---------------------------------------------------------------------- */

KanmdExchange::KanmdExchange(LAMMPS *lmp, Pair *pair) :
    lmp_(lmp), pair_(pair), graph_(nullptr), active_(false), stride_(0), value_bytes_(0),
    forwards_(0), reverses_(0)
{
  functions_.version = kan_md::EXCHANGE_VERSION;
  functions_.context = this;
  functions_.forward = [](void *context, const void *own, std::int64_t num_own, void *others,
                          std::int64_t num_others, std::int64_t row_bytes) {
    auto *const self = static_cast<KanmdExchange *>(context);
    return self->guarded([&] {
      self->forward(static_cast<const std::byte *>(own), num_own, static_cast<std::byte *>(others),
                    num_others, row_bytes);
    });
  };
  functions_.reverse = [](void *context, void *own, std::int64_t num_own, const void *others,
                          std::int64_t num_others, std::int64_t row_bytes, int value_bytes) {
    auto *const self = static_cast<KanmdExchange *>(context);
    return self->guarded([&] {
      self->reverse(static_cast<std::byte *>(own), num_own, static_cast<const std::byte *>(others),
                    num_others, row_bytes, value_bytes);
    });
  };
}

// An exception must not cross the operators' library, which is not ours to unwind.
template <typename Body> int KanmdExchange::guarded(Body &&body)
{
  try {
    body();
    return 0;
  } catch (...) {    // run() throws it again
    failure_ = std::current_exception();
    active_ = false;
    return 1;
  }
}

ExchangeNeeds KanmdExchange::needs_of(kan_md::CompiledModel &model)
{
  ExchangeNeeds needs;
  const kan_md_exchange counter{
      kan_md::EXCHANGE_VERSION, &needs,
      [](void *context, const void *, std::int64_t, void *, std::int64_t, std::int64_t row_bytes) {
        auto *const found = static_cast<ExchangeNeeds *>(context);
        ++found->count;
        found->doubles = std::max(found->doubles, doubles_for(row_bytes));
        return 0;
      },
      [](void *, void *, std::int64_t, const void *, std::int64_t, std::int64_t, int) {
        return 0;
      }};
  kan_md::Graph pair;
  pair.num_local = 1;
  pair.num_nodes = 2;
  pair.num_edges = 2;    // to two images of one neighbour
  const double r = 0.5 * model.manifest().r_max;
  pair.edge_vectors = {r, 0.0, 0.0, 0.0, r, 0.0};
  pair.edge_index = {0, 0, 1, 1};
  pair.atom_types = {0, 0};
  pair.positions = {0.0, 0.0, 0.0, r, 0.0, 0.0};
  pair.node_atoms = {0, 1};
  pair.neighbour_atoms = {1, 1};
  model.set_exchange(&counter);
  try {
    model.run(pair);
  } catch (...) {
    model.set_exchange(nullptr);
    throw;
  }
  model.set_exchange(nullptr);
  return needs;
}

std::vector<kan_md::Array> KanmdExchange::run(kan_md::CompiledModel &model,
                                              const kan_md::Graph &graph,
                                              const ExchangeNeeds &needs)
{
  graph_ = &graph;
  forwards_ = reverses_ = 0;
  failure_ = nullptr;
  std::vector<kan_md::Array> outputs;
  model.set_exchange(&functions_);
  try {
    outputs = model.run(graph);
  } catch (...) {
    model.set_exchange(nullptr);
    if (failure_) std::rethrow_exception(failure_);
    throw;
  }
  model.set_exchange(nullptr);
  if (forwards_ != needs.count || reverses_ != needs.count)
    throw kan_md::Error("features and gradients must be exchanged between all layers",
                        std::to_string(forwards_) + " and " + std::to_string(reverses_) + " times",
                        std::to_string(needs.count), "write halo recompute in pair_style");
  return outputs;
}

/* ---------------------------------------------------------------------- */

void KanmdExchange::start_rows(std::int64_t num_own, std::int64_t num_others,
                               std::int64_t row_bytes)
{
  // A graph that is too small for its model comes with nodes that are not there.
  if (num_own != graph_->num_local || num_own + num_others < graph_->num_nodes)
    throw kan_md::Error("features to exchange must be of " + std::to_string(graph_->num_local) +
                        " own atoms and " + std::to_string(graph_->num_nodes) + " in all, got " +
                        std::to_string(num_own) + " and " + std::to_string(num_own + num_others));
  stride_ = doubles_for(row_bytes);
  const int num_all = lmp_->atom->nlocal + lmp_->atom->nghost;
  rows_.assign(static_cast<std::size_t>(num_all) * stride_, 0.0);
}

std::byte *KanmdExchange::row_of(std::int64_t node)
{
  const auto row = static_cast<std::size_t>(graph_->node_atoms[node]) * stride_;
  return reinterpret_cast<std::byte *>(rows_.data() + row);
}

void KanmdExchange::forward(const std::byte *own, std::int64_t num_own, std::byte *others,
                            std::int64_t num_others, std::int64_t row_bytes)
{
  start_rows(num_own, num_others, row_bytes);
  for (std::int64_t i = 0; i < num_own; ++i) std::memcpy(row_of(i), own + i * row_bytes, row_bytes);
  active_ = true;
  send_to_ghosts(lmp_->comm, pair_, stride_);
  active_ = false;
  for (std::int64_t node = num_own; node < graph_->num_nodes; ++node)
    std::memcpy(others + (node - num_own) * row_bytes, row_of(node), row_bytes);
  ++forwards_;
}

// All images of an atom share the node, and any of them brings its gradient home.
void KanmdExchange::reverse(std::byte *own, std::int64_t num_own, const std::byte *others,
                            std::int64_t num_others, std::int64_t row_bytes, int value_bytes)
{
  start_rows(num_own, num_others, row_bytes);
  value_bytes_ = value_bytes;
  for (std::int64_t node = num_own; node < graph_->num_nodes; ++node)
    std::memcpy(row_of(node), others + (node - num_own) * row_bytes, row_bytes);
  active_ = true;
  send_to_owners(lmp_->comm, pair_, stride_);
  active_ = false;
  for (std::int64_t i = 0; i < num_own; ++i)
    add_values(row_of(i), row_bytes, value_bytes, own + i * row_bytes);
  ++reverses_;
}

/* ---------------------------------------------------------------------- */

int KanmdExchange::pack_forward(int n, const int *atoms, double *buffer) const
{
  for (int k = 0; k < n; ++k)
    std::memcpy(buffer + static_cast<std::size_t>(k) * stride_,
                rows_.data() + static_cast<std::size_t>(atoms[k]) * stride_,
                sizeof(double) * stride_);
  return n * stride_;
}

void KanmdExchange::unpack_forward(int n, int first, const double *buffer)
{
  std::memcpy(rows_.data() + static_cast<std::size_t>(first) * stride_, buffer,
              sizeof(double) * stride_ * n);
}

int KanmdExchange::pack_reverse(int n, int first, double *buffer) const
{
  std::memcpy(buffer, rows_.data() + static_cast<std::size_t>(first) * stride_,
              sizeof(double) * stride_ * n);
  return n * stride_;
}

// A ghost of a ghost passes on what it receives.
void KanmdExchange::unpack_reverse(int n, const int *atoms, const double *buffer)
{
  const std::size_t bytes = sizeof(double) * stride_;
  for (int k = 0; k < n; ++k)
    add_values(buffer + static_cast<std::size_t>(k) * stride_, bytes, value_bytes_,
               rows_.data() + static_cast<std::size_t>(atoms[k]) * stride_);
}

double KanmdExchange::memory_usage() const
{
  return static_cast<double>(rows_.capacity() * sizeof(double));
}
