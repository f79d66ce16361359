// A MACE with one interaction straight on LAMMPS' neighbour list, see core/local_potential.h.

#include "local_mace_centres.h"
#include "ops.h"

#include "core/local_potential.h"
#include "core/parallel.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace kan_md::ops {
namespace {

// Per pair of LAMMPS types, centre first.
struct PairRow {
  double cutoff_sq = 0.0, min_distance_sq = 0.0;
  int32_t kind = 0;    // see LocalMacePlan::kind
};

// What one thread adds up.
struct Tally {
  std::vector<double> forces, virials;    // [num_all][3], [num_all][9]
  double virial[9] = {};
  int64_t num_edges = 0, num_close = 0, num_coincident = 0;
};

template <typename T> class LocalMaceOnLists final : public LocalPotential {
 public:
  LocalMaceOnLists(std::vector<at::Tensor> weights, const std::vector<int64_t> &shape,
                   std::vector<double> scales, std::vector<double> shifts) :
      weights_(std::move(weights)), plan_(weights_, shape), scales_(std::move(scales)),
      shifts_(std::move(shifts))
  {
  }

  LocalResult compute(const AtomView &atoms, const TypeTable &types,
                      const LocalRequest &request) override
  {
    find_pairs(types);
    divide(atoms, request.num_threads);
    energies_.resize(atoms.inum);
    if (static_cast<int>(tallies_.size()) < request.num_threads)
      tallies_.resize(request.num_threads);
    const auto width = [&](int of) { return static_cast<std::size_t>(of) * atoms.num_all; };
    int parts = 1;
    in_parallel(
        request.num_threads,
        [&](int thread, int threads) {
          if (thread == 0) parts = threads;
          Tally &tally = tallies_[thread];
          tally.forces.assign(width(3), 0.0);
          tally.virials.assign(request.atom_virials ? width(9) : 0, 0.0);
          std::fill_n(tally.virial, 9, 0.0);
          tally.num_edges = tally.num_close = tally.num_coincident = 0;
          // The runtime may grant fewer threads than there are parts.
          for (int k = thread; k < request.num_threads; k += threads)
            with_l_max(plan_.l_max, [&](auto l_max) {
              run_part<decltype(l_max)::value>(atoms, types, request, k, tally);
            });
        },
        [&](int thread, int threads) {
          const auto add = [&](std::vector<double> Tally::*values) {
            std::vector<double> &sum = tallies_[0].*values;
            const std::size_t begin = sum.size() * thread / threads,
                              end = sum.size() * (thread + 1) / threads;
            for (int k = 1; k < threads; ++k)    // in order, so that equal runs give equal bits
              for (std::size_t i = begin; i < end; ++i) sum[i] += (tallies_[k].*values)[i];
          };
          add(&Tally::forces);
          add(&Tally::virials);
        });
    LocalResult result;
    result.energies = energies_.data();
    result.forces = tallies_[0].forces.data();
    if (request.atom_virials) result.virials = tallies_[0].virials.data();
    for (int k = 0; k < parts; ++k) {
      const Tally &tally = tallies_[k];
      for (int a = 0; a < 9; ++a) result.virial[a] += tally.virial[a];
      result.num_edges += tally.num_edges;
      result.num_close_edges += tally.num_close;
      result.num_coincident += tally.num_coincident;
    }
    return result;
  }

  std::int64_t bytes() const override
  {
    std::size_t doubles = energies_.capacity();
    for (const Tally &tally : tallies_)
      doubles += tally.forces.capacity() + tally.virials.capacity();
    return static_cast<std::int64_t>(doubles * sizeof(double));
  }

 private:
  void find_pairs(const TypeTable &types)
  {
    const int n = types.stride;
    pairs_.assign(static_cast<std::size_t>(n) * n, {});
    for (int a = 1; a < n; ++a)
      for (int b = 1; b < n; ++b) {
        const int centre = types.model_type[a], neighbour = types.model_type[b];
        if (centre < 0 || neighbour < 0) continue;
        pairs_[a * n + b] = {types.cutoff_sq[a * n + b], types.min_distance_sq[a * n + b],
                             plan_.kind(centre, neighbour)};
      }
  }

  // Threads get whole centres and about as many entries of the list each.
  void divide(const AtomView &atoms, int num_threads)
  {
    int64_t total = 0;
    for (int i = 0; i < atoms.inum; ++i) total += atoms.numneigh[atoms.ilist[i]] + 1;
    part_.assign(1, 0);
    int64_t so_far = 0;
    for (int i = 0; i < atoms.inum; ++i) {
      if (so_far * num_threads >= total * static_cast<int64_t>(part_.size())) part_.push_back(i);
      so_far += atoms.numneigh[atoms.ilist[i]] + 1;
    }
    part_.resize(num_threads + 1, atoms.inum);
  }

  template <int L>
  void run_part(const AtomView &atoms, const TypeTable &types, const LocalRequest &request,
                int part, Tally &tally)
  {
    const int begin = part_[part], end = part_[part + 1];
    if (begin == end) return;
    int most = 0;
    for (int i = begin; i < end; ++i) most = std::max(most, atoms.numneigh[atoms.ilist[i]]);
    CentreBatch<T, L> batch(plan_, most);
    std::vector<int> neighbours(most + kEdgesInBatch + 1), first;
    for (int i = begin; i < end;) {
      const int from = i;
      int64_t n = 0;
      first.assign(1, 0);
      // The list does not tell how many of its entries are edges: the next centre is taken to have as
      // many as those before it.
      do {
        n = add_edges(atoms, types, atoms.ilist[i++], n, neighbours.data(), batch, tally);
        first.push_back(static_cast<int>(n));
      } while (i < end && n + n / (i - from) <= kEdgesInBatch);
      batch.prepare(n);
      for (int k = from; k < i; ++k) {
        const int type = types.model_type[atoms.type[atoms.ilist[k]]], at = first[k - from];
        energies_[k] = shifts_[type] + batch.run(at, first[k - from + 1] - at,
                                                 plan_.num_types > 1 ? type : 0, scales_[type]);
      }
      batch.finish(n);
      for (int k = from; k < i; ++k)
        add_forces(atoms.ilist[k], first[k - from], first[k - from + 1], neighbours.data(), batch,
                   request, tally);
    }
  }

  // The neighbours of an atom within the cutoff become edges from n on; returns how many there are.
  // What the list's skin holds is written as well and written over: a branch would often be
  // mispredicted.
  template <int L>
  int64_t add_edges(const AtomView &atoms, const TypeTable &types, int centre, int64_t n,
                    int *neighbours, CentreBatch<T, L> &batch, Tally &tally) const
  {
    const int64_t begin = n;
    const double *const x = atoms.x[0];    // LAMMPS' positions lie one behind the other
    const double *const xi = x + 3 * static_cast<int64_t>(centre);
    const double x0 = xi[0], x1 = xi[1], x2 = xi[2];
    const PairRow *const pairs =
        pairs_.data() + static_cast<std::size_t>(atoms.type[centre]) * types.stride;
    const int *const list = atoms.firstneigh[centre];
    double shortest = 1e300;    // relative to the pair's shortest in training
    for (int k = 0, count = atoms.numneigh[centre]; k < count; ++k) {
      const int j = list[k] & atoms.neigh_mask;
      const double *const xj = x + 3 * static_cast<int64_t>(j);
      const double dx = xj[0] - x0, dy = xj[1] - x1, dz = xj[2] - x2;
      const double rsq = dx * dx + dy * dy + dz * dz;
      const PairRow &row = pairs[atoms.type[j]];
      neighbours[n] = j;
      batch.add(n, dx, dy, dz, row.kind);
      shortest = std::min(shortest, rsq - row.min_distance_sq);
      n += rsq < row.cutoff_sq;
    }
    tally.num_edges += n - begin;
    if (shortest < COINCIDENT * COINCIDENT)
      count_close(atoms, pairs, begin, n, neighbours, batch, tally);
    return n;
  }

  template <int L>
  void count_close(const AtomView &atoms, const PairRow *pairs, int64_t begin, int64_t end,
                   const int *neighbours, const CentreBatch<T, L> &batch, Tally &tally) const
  {
    for (int64_t e = begin; e < end; ++e) {
      double rsq = 0.0;
      for (int a = 0; a < 3; ++a) rsq += batch.vector(e, a) * batch.vector(e, a);
      tally.num_close += rsq < pairs[atoms.type[neighbours[e]]].min_distance_sq;
      tally.num_coincident += rsq < COINCIDENT * COINCIDENT;
    }
  }

  // F_centre += g, F_neighbour -= g, W = -sum r ⊗ g with g = dE/dr of an edge (kan_md/contract.py).
  template <int L>
  static void add_forces(int centre, int begin, int end, const int *neighbours,
                         const CentreBatch<T, L> &batch, const LocalRequest &request, Tally &tally)
  {
    double *const forces = tally.forces.data();
    double total[3] = {};
    for (int e = begin; e < end; ++e) {
      double *const force = forces + 3 * static_cast<int64_t>(neighbours[e]);
      for (int a = 0; a < 3; ++a) {
        const double g = batch.gradient(e, a);
        total[a] += g;
        force[a] -= g;
      }
    }
    for (int a = 0; a < 3; ++a) forces[3 * static_cast<int64_t>(centre) + a] += total[a];
    if (!request.virial && !request.atom_virials) return;
    for (int e = begin; e < end; ++e)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
          const double w = -batch.vector(e, a) * batch.gradient(e, b);
          tally.virial[3 * a + b] += w;
          if (request.atom_virials)
            tally.virials[9 * static_cast<int64_t>(neighbours[e]) + 3 * a + b] += w;
        }
  }

  const std::vector<at::Tensor> weights_;
  const LocalMacePlan<T> plan_;
  const std::vector<double> scales_, shifts_;    // [num_types], of the energy; eV
  std::vector<PairRow> pairs_;
  std::vector<int> part_;           // first centre of each thread
  std::vector<double> energies_;    // [inum]
  std::vector<Tally> tallies_;      // one per thread; the first one takes the sums
};

}    // namespace

// Found by name: kan_md_local_mace_on_lists of the operator kan_md::local_mace.
extern "C" LocalPotential *kan_md_local_mace_on_lists(const std::vector<at::Tensor> &weights,
                                                      const std::vector<int64_t> &shape,
                                                      const std::vector<double> &scales,
                                                      const std::vector<double> &shifts)
{
  TORCH_CHECK(!weights.empty() && !scales.empty() && scales.size() == shifts.size(),
              "kan_md::local_mace: weights, scales and shifts are needed");
  if (weights[0].scalar_type() == at::kFloat)
    return new LocalMaceOnLists<float>(weights, shape, scales, shifts);
  return new LocalMaceOnLists<double>(weights, shape, scales, shifts);
}

}    // namespace kan_md::ops
