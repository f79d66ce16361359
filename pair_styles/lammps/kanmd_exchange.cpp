/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

#include "kanmd_exchange.h"

#include "core/error.h"
#include "core/same_atoms.h"

#include "atom.h"
#include "comm.h"

#include <algorithm>
#include <climits>
#include <cstring>

using namespace LAMMPS_NS;
using kan_md::kan_md_blocks;
using kan_md::kan_md_exchange;

namespace {

constexpr int TAG_ASK = 4711, TAG_ROWS = 4712;    // of messages in LAMMPS' communicator

std::int64_t row_bytes_of(const kan_md_blocks &blocks)
{
  std::int64_t bytes = 0;
  for (int b = 0; b < blocks.num_blocks; ++b) bytes += blocks.block_bytes[b];
  return bytes;
}

// Calls `visit(begin, bytes)` for each block: where it begins, and bytes of a row.
template <typename Visit> void for_each_block(const kan_md_blocks &blocks, Visit &&visit)
{
  std::int64_t begin = 0;
  for (int b = 0; b < blocks.num_blocks; ++b) {
    visit(begin, blocks.block_bytes[b]);
    begin += blocks.num_rows * blocks.block_bytes[b];
  }
}

// A message holds block after block, too, each with a row for each of `count` nodes.
void pack(const std::byte *from, const kan_md_blocks &blocks, const int *nodes, int count,
          std::byte *message)
{
  for_each_block(blocks, [&](std::int64_t begin, std::int64_t bytes) {
    for (int k = 0; k < count; ++k, message += bytes)
      std::memcpy(message, from + begin + nodes[k] * bytes, bytes);
  });
}

void unpack(const std::byte *message, const kan_md_blocks &blocks, const int *nodes, int count,
            std::byte *to)
{
  for_each_block(blocks, [&](std::int64_t begin, std::int64_t bytes) {
    for (int k = 0; k < count; ++k, message += bytes)
      std::memcpy(to + begin + nodes[k] * bytes, message, bytes);
  });
}

template <typename T>
void add(const std::byte *message, const kan_md_blocks &blocks, const int *nodes, int count,
         std::byte *to)
{
  for_each_block(blocks, [&](std::int64_t begin, std::int64_t bytes) {
    const std::int64_t width = bytes / static_cast<std::int64_t>(sizeof(T));
    for (int k = 0; k < count; ++k, message += bytes) {
      const T *const value = reinterpret_cast<const T *>(message);
      T *const sum = reinterpret_cast<T *>(to + begin + nodes[k] * bytes);
      for (std::int64_t i = 0; i < width; ++i) sum[i] += value[i];
    }
  });
}

}    // namespace

/* ---------------------------------------------------------------------- */

KanmdExchange::KanmdExchange(LAMMPS *lmp) : lmp_(lmp), graph_(nullptr), forwards_(0), reverses_(0)
{
  functions_.version = kan_md::EXCHANGE_VERSION;
  functions_.context = this;
  functions_.forward = [](void *context, void *features, const kan_md_blocks *blocks,
                          std::int64_t num_own) {
    auto *const self = static_cast<KanmdExchange *>(context);
    return self->guarded(
        [&] { self->forward(static_cast<std::byte *>(features), *blocks, num_own); });
  };
  functions_.reverse = [](void *context, const void *gradients, const kan_md_blocks *blocks,
                          void *own, const kan_md_blocks *own_blocks, std::int64_t num_own,
                          int value_bytes) {
    auto *const self = static_cast<KanmdExchange *>(context);
    return self->guarded([&] {
      self->reverse(static_cast<const std::byte *>(gradients), *blocks,
                    static_cast<std::byte *>(own), *own_blocks, num_own, value_bytes);
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
    return 1;
  }
}

int KanmdExchange::count_of(kan_md::CompiledModel &model)
{
  int count = 0;
  const kan_md_exchange counter{
      kan_md::EXCHANGE_VERSION, &count,
      [](void *context, void *features, const kan_md_blocks *blocks, std::int64_t num_own) {
        ++*static_cast<int *>(context);
        for_each_block(*blocks, [&](std::int64_t begin, std::int64_t bytes) {
          std::memset(static_cast<std::byte *>(features) + begin + num_own * bytes, 0,
                      (blocks->num_rows - num_own) * bytes);
        });
        return 0;
      },
      [](void *, const void *, const kan_md_blocks *, void *, const kan_md_blocks *, std::int64_t,
         int) { return 0; }};
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
  return count;
}

/* ---------------------------------------------------------------------- */

// Every rank learns how many rows others may want of it: those of all ghosts that it has made.
void KanmdExchange::find_partners(const std::vector<std::int64_t> &identities)
{
  identities_ = identities;
  const int num_ranks = lmp_->comm->nprocs, me = lmp_->comm->me;
  std::vector<std::int64_t> ghosts(identities.begin() + lmp_->atom->nlocal, identities.end());
  std::sort(ghosts.begin(), ghosts.end());
  ghosts.erase(std::unique(ghosts.begin(), ghosts.end()), ghosts.end());
  std::vector<int> asked(num_ranks, 0), asking(num_ranks, 0);
  for (const std::int64_t ghost : ghosts) ++asked[kan_md::rank_of(ghost)];
  asked[me] = 0;    // images of own atoms are own nodes
  MPI_Alltoall(asked.data(), 1, MPI_INT, asking.data(), 1, MPI_INT, lmp_->world);
  owners_.partners.clear();
  askers_.partners.clear();
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (asked[rank] > 0) owners_.partners.push_back({rank, asked[rank], 0, 0});
    if (asking[rank] > 0) askers_.partners.push_back({rank, asking[rank], 0, 0});
  }
}

// Tells the owners of the present graph's nodes which of their atoms these are.
void KanmdExchange::ask_for_rows()
{
  const auto &node_atoms = graph_->node_atoms;
  const int num_own = static_cast<int>(graph_->num_local);
  const int num_nodes = static_cast<int>(graph_->num_nodes);
  std::vector<int> place(lmp_->comm->nprocs, -1);    // of a rank among the owners
  for (std::size_t k = 0; k < owners_.partners.size(); ++k) {
    place[owners_.partners[k].rank] = static_cast<int>(k);
    owners_.partners[k].count = 0;
  }
  const auto owner_of = [&](int node) -> Partner & {
    const int rank = kan_md::rank_of(identities_[node_atoms[node]]);
    if (place[rank] < 0)
      throw kan_md::Error("nodes of other ranks' atoms must be among their ghosts");
    return owners_.partners[place[rank]];
  };
  for (int node = num_own; node < num_nodes; ++node) ++owner_of(node).count;
  int begin = 0;
  for (Partner &owner : owners_.partners) {
    owner.begin = begin;
    begin += owner.count;
    owner.count = 0;
  }
  owners_.nodes.resize(begin);
  atoms_.resize(begin);
  for (int node = num_own; node < num_nodes; ++node) {
    Partner &owner = owner_of(node);
    const int at = owner.begin + owner.count++;
    owners_.nodes[at] = node;
    atoms_[at] = kan_md::index_of(identities_[node_atoms[node]]);
  }

  begin = 0;
  for (Partner &asker : askers_.partners) {
    asker.begin = begin;
    begin += asker.most;
  }
  askers_.nodes.resize(begin);
  requests_.clear();
  for (const Partner &asker : askers_.partners)
    MPI_Irecv(askers_.nodes.data() + asker.begin, asker.most, MPI_INT, asker.rank, TAG_ASK,
              lmp_->world, &requests_.emplace_back());
  for (const Partner &owner : owners_.partners)
    MPI_Isend(atoms_.data() + owner.begin, owner.count, MPI_INT, owner.rank, TAG_ASK, lmp_->world,
              &requests_.emplace_back());
  std::vector<MPI_Status> statuses(requests_.size());
  MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses.data());

  node_of_atom_.assign(lmp_->atom->nlocal, -1);
  for (int node = 0; node < num_own; ++node) node_of_atom_[node_atoms[node]] = node;
  for (std::size_t k = 0; k < askers_.partners.size(); ++k) {
    Partner &asker = askers_.partners[k];
    MPI_Get_count(&statuses[k], MPI_INT, &asker.count);
    for (int i = asker.begin; i < asker.begin + asker.count; ++i) {
      const int atom = askers_.nodes[i];
      if (atom < 0 || atom >= lmp_->atom->nlocal || node_of_atom_[atom] < 0)
        throw kan_md::Error("other ranks must ask for own atoms of this pair style",
                            "atom " + std::to_string(atom), "", "");
      askers_.nodes[i] = node_of_atom_[atom];
    }
  }
}

std::vector<kan_md::Array> KanmdExchange::run(kan_md::CompiledModel &model,
                                              const kan_md::Graph &graph, int count)
{
  graph_ = &graph;
  forwards_ = reverses_ = 0;
  failure_ = nullptr;
  ask_for_rows();
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
  if (forwards_ != count || reverses_ != count)
    throw kan_md::Error("features and gradients must be exchanged between all layers",
                        std::to_string(forwards_) + " and " + std::to_string(reverses_) + " times",
                        std::to_string(count), "write halo recompute in pair_style");
  return outputs;
}

/* ---------------------------------------------------------------------- */

// A graph that is too small for its model comes with nodes that are not there.
void KanmdExchange::check_nodes(const kan_md_blocks &blocks, std::int64_t num_own) const
{
  if (num_own != graph_->num_local || blocks.num_rows < graph_->num_nodes)
    throw kan_md::Error("features to exchange must be of " + std::to_string(graph_->num_local) +
                        " own atoms and " + std::to_string(graph_->num_nodes) + " in all, got " +
                        std::to_string(num_own) + " and " + std::to_string(blocks.num_rows));
}

// Rows of `from` go to its partners, rows of `to` come from its.
void KanmdExchange::transfer(Side &from, Side &to, std::int64_t row_bytes)
{
  const auto size_of = [&](const Partner &partner) {
    const std::int64_t bytes = partner.count * row_bytes;
    if (bytes > INT_MAX)
      throw kan_md::Error("a rank can exchange 2 GB of features with another",
                          std::to_string(bytes) + " bytes", "",
                          "use more ranks, or write halo recompute in pair_style");
    return static_cast<int>(bytes);
  };
  requests_.clear();
  for (const Partner &partner : to.partners)
    if (partner.count > 0)
      MPI_Irecv(to.rows.data() + partner.begin * row_bytes, size_of(partner), MPI_BYTE,
                partner.rank, TAG_ROWS, lmp_->world, &requests_.emplace_back());
  for (const Partner &partner : from.partners)
    if (partner.count > 0)
      MPI_Isend(from.rows.data() + partner.begin * row_bytes, size_of(partner), MPI_BYTE,
                partner.rank, TAG_ROWS, lmp_->world, &requests_.emplace_back());
  MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
}

void KanmdExchange::forward(std::byte *features, const kan_md_blocks &blocks, std::int64_t num_own)
{
  check_nodes(blocks, num_own);
  const std::int64_t row_bytes = row_bytes_of(blocks);
  askers_.rows.resize(askers_.nodes.size() * row_bytes);
  owners_.rows.resize(owners_.nodes.size() * row_bytes);
  for (const Partner &p : askers_.partners)
    pack(features, blocks, askers_.nodes.data() + p.begin, p.count,
         askers_.rows.data() + p.begin * row_bytes);
  transfer(askers_, owners_, row_bytes);
  for (const Partner &p : owners_.partners)
    unpack(owners_.rows.data() + p.begin * row_bytes, blocks, owners_.nodes.data() + p.begin,
           p.count, features);
  for_each_block(blocks, [&](std::int64_t begin, std::int64_t bytes) {
    std::memset(features + begin + graph_->num_nodes * bytes, 0,
                (blocks.num_rows - graph_->num_nodes) * bytes);
  });
  ++forwards_;
}

void KanmdExchange::reverse(const std::byte *gradients, const kan_md_blocks &blocks, std::byte *own,
                            const kan_md_blocks &own_blocks, std::int64_t num_own, int value_bytes)
{
  check_nodes(blocks, num_own);
  const std::int64_t row_bytes = row_bytes_of(blocks);
  askers_.rows.resize(askers_.nodes.size() * row_bytes);
  owners_.rows.resize(owners_.nodes.size() * row_bytes);
  for (const Partner &p : owners_.partners)
    pack(gradients, blocks, owners_.nodes.data() + p.begin, p.count,
         owners_.rows.data() + p.begin * row_bytes);
  transfer(owners_, askers_, row_bytes);
  for (const Partner &p :
       askers_.partners) {    // in the order of ranks, so that equal runs are equal
    const std::byte *const rows = askers_.rows.data() + p.begin * row_bytes;
    const int *const nodes = askers_.nodes.data() + p.begin;
    if (value_bytes == sizeof(float))
      add<float>(rows, own_blocks, nodes, p.count, own);
    else
      add<double>(rows, own_blocks, nodes, p.count, own);
  }
  ++reverses_;
}

double KanmdExchange::memory_usage() const
{
  const auto numbers = owners_.nodes.capacity() + askers_.nodes.capacity() + atoms_.capacity() +
                       node_of_atom_.capacity();
  return static_cast<double>(owners_.rows.capacity() + askers_.rows.capacity() +
                             numbers * sizeof(int) + identities_.capacity() * sizeof(std::int64_t));
}
