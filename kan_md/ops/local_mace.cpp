// The operator on edge vectors that torch calls; kan_md/ops/local_mace_centres.h has the arithmetic.

#include "local_mace_centres.h"
#include "neighbours.h"
#include "ops.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

namespace kan_md::ops {
namespace {

// Edges, centres and results of one call.
struct Graph {
  const double *vectors;
  const int64_t *neighbours;
  const int64_t *types;
  double *energies;
  double *gradient;
};

template <typename T, int L>
void run_part(const LocalMacePlan<T> &plan, const Graph &graph, const CentreRanges &ranges,
              int part)
{
  const int64_t begin = ranges.part[part], end = ranges.part[part + 1];
  int64_t most = 0;
  for (int64_t i = begin; i < end; ++i)
    most = std::max(most, ranges.first[i + 1] - ranges.first[i]);
  CentreBatch<T, L> batch(plan, most);
  const auto type_of = [&](int64_t i) { return plan.num_types > 1 ? graph.types[i] : 0; };
  for (int64_t i = begin; i < end;) {
    const int64_t from = ranges.first[i];
    int64_t after = i + 1;
    while (after < end && ranges.first[after + 1] - from <= kEdgesInBatch) ++after;
    for (int64_t centre = i; centre < after; ++centre)
      for (int64_t e = ranges.first[centre]; e < ranges.first[centre + 1]; ++e) {
        const double *const d = graph.vectors + 3 * e;
        batch.add(e - from, d[0], d[1], d[2],
                  plan.kind(type_of(centre), type_of(graph.neighbours[e])));
      }
    const int64_t n = ranges.first[after] - from;
    batch.prepare(n);
    for (int64_t centre = i; centre < after; ++centre) {
      const int64_t first = ranges.first[centre];
      graph.energies[centre] =
          batch.run(first - from, ranges.first[centre + 1] - first, type_of(centre), 1.0);
    }
    batch.finish(n);
    for (int64_t e = 0; e < n; ++e)
      for (int a = 0; a < 3; ++a) graph.gradient[3 * (from + e) + a] = batch.gradient(e, a);
    i = after;
  }
}

template <typename T>
void run(const LocalMacePlan<T> &plan, const Graph &graph, const CentreRanges &ranges,
         int num_threads)
{
  in_parallel(num_threads, [&](int thread, int threads) {
    // The runtime may grant fewer threads than there are parts.
    for (int k = thread; k < num_threads; k += threads)
      with_l_max(plan.l_max,
                 [&](auto l_max) { run_part<T, decltype(l_max)::value>(plan, graph, ranges, k); });
  });
}

}    // namespace

std::tuple<at::Tensor, at::Tensor> local_mace(const at::Tensor &edge_vectors,
                                              const at::Tensor &edge_index,
                                              const at::Tensor &atom_types, at::TensorList weights,
                                              c10::IntArrayRef shape)
{
  const int64_t num_edges = edge_index.size(1), num_atoms = atom_types.numel();
  TORCH_CHECK(edge_vectors.dim() == 2 && edge_vectors.size(0) == num_edges &&
                  edge_vectors.size(1) == 3 && edge_vectors.scalar_type() == at::kDouble,
              "kan_md::local_mace: edge_vectors must be [", num_edges, ", 3] float64, got ",
              edge_vectors.sizes(), " ", edge_vectors.scalar_type());
  TORCH_CHECK(!weights.empty(), "kan_md::local_mace: no weights");
  const at::Tensor vectors = edge_vectors.contiguous(), index = edge_index.contiguous();
  const at::Tensor types = atom_types.contiguous();
  at::Tensor energies = at::empty({num_atoms}, vectors.options());
  at::Tensor gradient = at::empty({num_edges, 3}, vectors.options());
  const int num_threads = at::get_num_threads();
  const CentreRanges ranges(index, num_atoms, num_threads);
  const std::vector<at::Tensor> kept(weights.begin(), weights.end());
  const auto call = [&](const auto &plan) {
    checked_num_types(types, plan.num_types * plan.num_types);
    const Graph graph{vectors.const_data_ptr<double>(), index.const_data_ptr<int64_t>() + num_edges,
                      types.const_data_ptr<int64_t>(), energies.mutable_data_ptr<double>(),
                      gradient.mutable_data_ptr<double>()};
    run(plan, graph, ranges, num_threads);
  };
  if (kept[0].scalar_type() == at::kFloat)
    call(LocalMacePlan<float>(kept, shape));
  else
    call(LocalMacePlan<double>(kept, shape));
  return {energies, gradient};
}

}    // namespace kan_md::ops
