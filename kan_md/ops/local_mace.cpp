// A MACE with one interaction, energies and their derivatives, one centre after the other.
//
// With one interaction a neighbour's features are constants of its type, so everything linear between
// the radial networks and the product basis is multiplied into one table of functions per pair of
// types. For the edges e of a centre i:
//
//   radial functions             R_lk(r_e), dR_lk/dr                 (one table)
//   expansion of the neighbours  A_lmk = sum_e R_lk(r_e) Y_lm(e)
//   product basis                B_k   = sum of monomials in A_.k, coefficients per type of i
//   densities                    rho_o = sum_k B_k W_ko + offset_o(type of i)
//   energy                       E_i   = F(rho): the embedding function
//
// and backwards dE/drho, dE/dB, dE/dA, then for every edge dE/dr = sum_lk R'_lk sum_m dA_lmk Y_lm and
// dE/dY_lm = sum_k R_lk dA_lmk. Channels k are the lanes of vectors; harmonics and the gradient by the
// vectors are computed for a batch of edges, one edge per lane. Nothing of the size of the edges is
// kept.

#include "activation.h"
#include "lane_sums.h"
#include "local_mace_plan.h"
#include "neighbours.h"
#include "ops.h"
#include "piecewise.h"
#include "polynomial_kernels.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace kan_md::ops {
namespace {

constexpr int64_t kEdgesInBatch = 64;

// Aligned memory of one thread.
template <typename T> class Memory {
 public:
  explicit Memory(int64_t size) :
      data_(static_cast<T *>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kAlign)))
  {
  }
  T *get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Release {
    void operator()(T *p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Release> data_;
};

// F(rho) and its gradient.
template <typename T> class EmbeddingFunction {
 public:
  explicit EmbeddingFunction(const LocalMacePlan<T> &plan) :
      plan_(plan), row_(plan.longest_row), active_(plan.widest), next_(plan.widest)
  {
    for (const Product<T> &map : plan.hidden) inner_.emplace_back(map.out);
    if (!plan.kans.empty())    // widths are those of all types
      for (const KanLayer<T> &layer : plan.kans[0]) inner_.emplace_back(layer.product.out);
  }

  // rho [densities] of an atom of a type becomes dF/drho.
  double run(T *rho, int64_t type)
  {
    const int64_t number = plan_.per_type() ? type : 0;
    switch (plan_.embedding) {
      case Embedding::kKan:
      case Embedding::kKanPerType: {
        const Pieces<T> &f = plan_.pieces[number];
        return piecewise_row(plan_.densities, rho, f.pieces, f.inverse_step, f.origin, f.num_pieces,
                             rho);
      }
      case Embedding::kKanNetwork:
      case Embedding::kKanNetworkPerType:
        return network(plan_.kans[number], rho);
      default:
        return perceptron(rho);
    }
  }

 private:
  static double dot(int64_t n, const T *a, const T *b)
  {
    Vec<T> total{};
    for (int64_t i = 0; i < n; i += Simd<T>::kLanes) total += load(a + i) * load(b + i);
    return sum<T>(total);
  }

  double perceptron(T *rho)
  {
    if (plan_.hidden.empty()) {
      const double energy = dot(plan_.densities, rho, plan_.vector);
      std::copy_n(plan_.vector, plan_.densities, rho);
      return energy;
    }
    const T *x = rho;
    for (size_t d = 0; d < plan_.hidden.size(); ++d) {
      const Product<T> &map = plan_.hidden[d];
      multiply<T>(1, map.in, map.out, x, map.in, map.weight, map.out, inner_[d].get(), map.out,
                  false);
      silu(map.out, inner_[d].get(), active_.get());
      x = active_.get();
    }
    const int64_t last = plan_.hidden.back().out;
    const double energy = dot(last, active_.get(), plan_.vector);
    std::copy_n(plan_.vector, last, active_.get());
    T *grad = active_.get(), *next = next_.get();
    for (size_t d = plan_.hidden.size(); d-- > 0; std::swap(grad, next)) {
      const Product<T> &map = plan_.hidden[d];
      silu_reverse(map.out, inner_[d].get(), grad);
      multiply<T>(1, map.out, map.in, grad, map.out, map.transposed, map.in, d == 0 ? rho : next,
                  map.in, false);
    }
    return energy;
  }

  double network(const std::vector<KanLayer<T>> &layers, T *rho)
  {
    const T *x = rho;
    for (size_t d = 0; d < layers.size(); ++d) {
      const int64_t out = layers[d].product.out;
      std::fill_n(inner_[d].get(), out, T(0));
      add_kan<T>(layers[d], 1, x, layers[d].in, row_.get(), inner_[d].get(), out);
      x = inner_[d].get();
    }
    const double energy = x[0];
    std::fill_n(active_.get(), layers.back().product.out, T(0));
    active_.get()[0] = 1;
    for (size_t d = layers.size(); d-- > 0;) {
      const KanLayer<T> &layer = layers[d];
      T *const values = d == 0 ? rho : inner_[d - 1].get();
      reverse_kan<T>(layer, 1, values, layer.in, row_.get(), active_.get(), layer.product.out,
                     values, layer.in);
      if (d > 0) std::copy_n(values, layer.in, active_.get());
    }
    return energy;
  }

  const LocalMacePlan<T> &plan_;
  Memory<T> row_, active_, next_;
  std::vector<Memory<T>> inner_;
};

// One thread's work, a batch of centres at a time.
template <typename T, int L> class Batch {
  static constexpr int kLanes = Simd<T>::kLanes, kBlock = Simd<T>::kBlock, kVecs = Simd<T>::kVecs;
  static constexpr int kBasis = (L + 1) * (L + 1);

 public:
  // most: edges of the centre with the most.
  Batch(const LocalMacePlan<T> &plan, int64_t most) :
      plan_(plan), embedding_(plan), rows_(most + kEdgesInBatch), place_(most + kEdgesInBatch),
      inverse_width_(most + kEdgesInBatch), harmonics_((most + kEdgesInBatch) * kBasis),
      angular_((most + kEdgesInBatch) * kBasis), radial_(most + kEdgesInBatch),
      values_(most * plan.functions()), slopes_(most * plan.functions()),
      expansion_(kBasis * plan.channels), expansion_grad_(kBasis * plan.channels),
      basis_(plan.channels), densities_(plan.densities)
  {
  }

  // The places of all edges [0, n) of a batch in the tables; vectors [n, 3], Å.
  void start(const double *vectors, int64_t n)
  {
    harmonics_for(L, vectors, 0, n, harmonics_.get());
  }

  void place(int64_t e, const double *d, int64_t pair)
  {
    IntervalPlace found;
    const IntervalEnds &ends = plan_.intervals[pair];
    const double length = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    rows_[e] = nullptr;
    if (!ends.find(length, found)) return;
    place_[e] = static_cast<T>(found.t);
    inverse_width_[e] = static_cast<T>(found.inverse_width);
    rows_[e] = plan_.table + (pair * ends.num_intervals + found.interval) * 6 * plan_.functions();
  }

  // Energy of a centre with the edges [first, first + n) of the batch, and their gradients.
  double run(int64_t first, int64_t n, int64_t type)
  {
    expand(first, n);
    const T *coefficients = plan_.coefficients + type * plan_.channels * plan_.num_terms;
    for (int64_t b = 0; b < plan_.channels / kBlock; ++b)
      evaluate_polynomial(expansion_.get() + b * kBasis * kBlock,
                          coefficients + b * plan_.num_terms * kBlock, plan_.program, 1,
                          basis_.get() + b * kBlock);
    T *const rho = densities_.get();
    std::copy_n(plan_.offsets + type * plan_.densities, plan_.densities, rho);
    multiply<T>(1, plan_.channels, plan_.densities, basis_.get(), plan_.channels,
                plan_.linear.weight, plan_.densities, rho, plan_.densities, true);
    const double energy = embedding_.run(rho, type);
    if (n == 0) return energy;
    multiply<T>(1, plan_.densities, plan_.channels, rho, plan_.densities, plan_.linear.transposed,
                plan_.channels, basis_.get(), plan_.channels, false);
    std::fill_n(expansion_grad_.get(), kBasis * plan_.channels, T(0));
    for (int64_t b = 0; b < plan_.channels / kBlock; ++b)
      reverse_polynomial(expansion_.get() + b * kBasis * kBlock,
                         coefficients + b * plan_.num_terms * kBlock, plan_.program, 1,
                         basis_.get() + b * kBlock, expansion_grad_.get() + b * kBasis * kBlock);
    reverse_expand(first, n);
    return energy;
  }

  void finish(const double *vectors, int64_t n, double *gradient)
  {
    gradient_for(L, vectors, angular_.get(), radial_.get(), 0, n, gradient);
  }

 private:
  // Of one vector of channels, rows of the expansion and their gradient.
  int64_t at(int64_t v) const { return v / kBlock * kBasis * kBlock + v % kBlock; }

  void expand(int64_t first, int64_t n)
  {
    const int64_t c = plan_.channels, width = plan_.functions();
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> total[kBasis] = {};
      for (int64_t e = 0; e < n; ++e) {
        const T *row = rows_[first + e];
        T *const values = values_.get() + e * width + v, *const slopes =
                                                             slopes_.get() + e * width + v;
        if (!row) continue;
        const T t = place_[first + e];
        const T *y = harmonics_.get() + (first + e) * kBasis;
        for (int degree = 0; degree <= L; ++degree) {
          const T *p = row + degree * c + v;
          Vec<T> value = load(p + 5 * width), slope{};
          for (int power = 4; power >= 0; --power) {
            slope = slope * t + value;
            value = value * t + load(p + power * width);
          }
          store(values + degree * c, value);
          store(slopes + degree * c, slope);
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m)
            total[m] += value * y[m];
        }
      }
      for (int m = 0; m < kBasis; ++m) store(expansion_.get() + at(v) + m * kBlock, total[m]);
    }
  }

  void reverse_expand(int64_t first, int64_t n)
  {
    const int64_t c = plan_.channels, width = plan_.functions();
    for (int64_t e = 0; e < n; ++e) {
      T *const angular = angular_.get() + (first + e) * kBasis;
      if (!rows_[first + e]) {
        std::fill_n(angular, kBasis, T(0));
        radial_.get()[first + e] = 0;
        continue;
      }
      const T *y = harmonics_.get() + (first + e) * kBasis;
      Vec<T> part[kBasis] =
          {};    // of dE/dY; that of l = 0 moves nothing, and dE/dr takes its place
      for (int64_t v = 0; v < c; v += kLanes) {
        const T *const grad = expansion_grad_.get() + at(v);
        const T *const values = values_.get() + e * width + v;
        const T *const slopes = slopes_.get() + e * width + v;
        for (int degree = 0; degree <= L; ++degree) {
          const Vec<T> value = load(values + degree * c);
          Vec<T> along{};
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m) {
            const Vec<T> g = load(grad + m * kBlock);
            along += g * y[m];
            if (degree > 0) part[m] += value * g;
          }
          part[0] += load(slopes + degree * c) * along;
        }
      }
      lane_sums<T, kBasis>(part, angular);
      radial_.get()[first + e] = angular[0] * inverse_width_[first + e];
    }
  }

  const LocalMacePlan<T> &plan_;
  EmbeddingFunction<T> embedding_;
  std::vector<const T *> rows_;
  std::vector<T> place_, inverse_width_;
  Memory<T> harmonics_, angular_, radial_;    // of the batch
  Memory<T> values_, slopes_;                 // of the centre's edges
  Memory<T> expansion_, expansion_grad_;      // [blocks][basis][block]
  Memory<T> basis_, densities_;
};

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
  Batch<T, L> batch(plan, most);
  const bool by_pair = plan.num_pairs > 1;
  for (int64_t i = begin; i < end;) {
    const int64_t from = ranges.first[i];
    int64_t after = i + 1;
    while (after < end && ranges.first[after + 1] - from <= kEdgesInBatch) ++after;
    const int64_t n = ranges.first[after] - from;
    const double *vectors = graph.vectors + 3 * from;
    batch.start(vectors, n);
    for (int64_t centre = i; centre < after; ++centre)
      for (int64_t e = ranges.first[centre]; e < ranges.first[centre + 1]; ++e)
        batch.place(
            e - from, graph.vectors + 3 * e,
            by_pair ? graph.types[centre] * plan.num_types + graph.types[graph.neighbours[e]] : 0);
    for (int64_t centre = i; centre < after; ++centre) {
      const int64_t first = ranges.first[centre];
      graph.energies[centre] = batch.run(first - from, ranges.first[centre + 1] - first,
                                         plan.num_types > 1 ? graph.types[centre] : 0);
    }
    batch.finish(vectors, n, graph.gradient + 3 * from);
    i = after;
  }
}

template <typename T>
void run(const LocalMacePlan<T> &plan, const Graph &graph, const CentreRanges &ranges,
         int num_threads)
{
  in_parallel(num_threads, [&](int thread, int threads) {
    // The runtime may grant fewer threads than there are parts.
    for (int k = thread; k < num_threads; k += threads) {
      const auto part = [&](auto l_max) {
        run_part<T, decltype(l_max)::value>(plan, graph, ranges, k);
      };
      switch (plan.l_max) {
        case 0:
          part(std::integral_constant<int, 0>{});
          break;
        case 1:
          part(std::integral_constant<int, 1>{});
          break;
        case 2:
          part(std::integral_constant<int, 2>{});
          break;
        case 3:
          part(std::integral_constant<int, 3>{});
          break;
        default:
          part(std::integral_constant<int, 4>{});
          break;
      }
    }
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
