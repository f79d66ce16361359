// A MACE with one interaction, energies and their derivatives, a batch of centres at a time.
//
// With one interaction a neighbour's features are constants of its type, so everything linear between
// the radial networks and the product basis is multiplied into one table of functions per pair of
// types. For the edges e of a centre i:
//
//   radial functions             R_lk(r_e), dR_lk/dr                 (one table)
//   expansion of the neighbours  A_lmk = sum_e R_lk(r_e) Y_lm(e)
//
// or, for many elements, one table for all pairs, a factor per type of neighbour and a matrix per type
// of centre; a model with densities divides by one that is a sum over the same edges:
//
//   sum over the neighbours      S_lmu = sum_e f_u(type of e) R_lu(r_e) Y_lm(e)
//   expansion of the neighbours  A_lmk = sum_u S_lmu M_luk(type of i) / (1 + sum_e d(r_e))
//
//   product basis                B_k   = sum of monomials in A_.k, coefficients per type of i
//   densities                    rho_o = sum_k B_k W_ko + offset_o(type of i)
//   energy                       E_i   = F(rho): the embedding function
//
// and backwards dE/drho, dE/dB, dE/dA, then for every edge dE/dr = sum_lk R'_lk sum_m dA_lmk Y_lm and
// dE/dY_lm = sum_k R_lk dA_lmk. Channels k are the lanes of vectors; lengths, harmonics and the
// gradient by the vectors are computed for a batch of edges, one edge per lane. Nothing of the size of
// all edges is kept.

#ifndef KAN_MD_OPS_LOCAL_MACE_CENTRES_H
#define KAN_MD_OPS_LOCAL_MACE_CENTRES_H

#include "lane_sums.h"
#include "local_mace_embedding.h"
#include "local_mace_plan.h"
#include "polynomial_kernels.h"
#include "spherical_harmonics.h"
#include "transpose.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace kan_md::ops {

// Edges of a batch: those of whole centres until there are as many, or those of one.
constexpr int64_t kEdgesInBatch = 64;

// One thread's work. Edges are added at [0, n), then prepare(n), run() of each centre, finish(n).
template <typename T, int L> class CentreBatch {
  static constexpr int kLanes = Simd<T>::kLanes, kBlock = Simd<T>::kBlock, kVecs = Simd<T>::kVecs;
  static constexpr int kBasis = (L + 1) * (L + 1);
  static constexpr int kRow = (kBasis + kLanes - 1) / kLanes * kLanes;    // of harmonics of an edge

 public:
  // most: edges of the centre with the most.
  CentreBatch(const LocalMacePlan<T> &plan, int64_t most) :
      plan_(plan), embedding_(plan), room_(most + kEdgesInBatch + kLanes), vectors_(3 * room_),
      lengths_(room_), inverse_(room_), kind_(room_), row_(room_), place_(room_),
      inverse_width_(room_), unit_(3 * room_), inverse_length_(room_), harmonics_(room_ * kRow),
      angular_(room_ * kRow), gradient_(3 * room_), values_(most * plan.functions()),
      slopes_(most * plan.functions()), density_slopes_(plan.has_density ? most : 0),
      sums_(plan.is_factored() ? kBasis * plan.summed : 0), expansion_(kBasis * plan.channels),
      expansion_grad_(kBasis * plan.channels), basis_(plan.channels), densities_(plan.densities)
  {
  }

  // Of edge e: r_neighbour - r_centre, Å, and what LocalMacePlan::kind says of its types.
  void add(int64_t e, double x, double y, double z, int32_t kind)
  {
    vectors_.get()[e] = x;
    vectors_.get()[room_ + e] = y;
    vectors_.get()[2 * room_ + e] = z;
    kind_.get()[e] = kind;
  }

  // Places in the tables and harmonics of the edges [0, n).
  void prepare(int64_t n)
  {
    measure(n);
    find_rows(n);
    for (int64_t e = 0; e < n; e += kLanes) {
      Vec<T> y[kRow] = {};
      const auto [ux, uy, uz] = unit(e);
      spherical_harmonics<L, T>(ux, uy, uz, y);
      for (int tile = 0; tile < kRow; tile += kLanes) {
        transpose<T>(y + tile);
        for (int i = 0; i < kLanes; ++i)
          store(harmonics_.get() + (e + i) * kRow + tile, y[tile + i]);
      }
    }
  }

  // Energy of a centre with the edges [first, first + n), times scale, and what finish() makes their
  // gradients of.
  double run(int64_t first, int64_t n, int64_t type, double scale)
  {
    T *const sums = plan_.is_factored() ? sums_.get() : expansion_.get();
    if (plan_.is_factored()) {
      expand<true>(first, n, sums);
      map_by_type(type, sums);
    } else {
      expand<false>(first, n, sums);
    }
    const T share = plan_.has_density ? divide_by_density(first, n) : T(1);
    const int64_t channels = plan_.channels;
    const T *coefficients = plan_.coefficients + type * channels * plan_.num_terms;
    for (int64_t b = 0; b < channels / kBlock; ++b)
      differentiate_polynomial(expansion_.get() + b * kBasis * kBlock,
                               coefficients + b * plan_.num_terms * kBlock, plan_.program, kBasis,
                               basis_.get() + b * kBlock,
                               expansion_grad_.get() + b * kBasis * kBlock);
    T *const rho = densities_.get();
    std::copy_n(plan_.offsets + type * plan_.densities, plan_.densities, rho);
    multiply<T>(1, channels, plan_.densities, basis_.get(), channels, plan_.linear.weight,
                plan_.densities, rho, plan_.densities, true);
    const double energy = scale * embedding_.run(rho, type);
    if (n == 0) return energy;
    for (int64_t o = 0; o < plan_.densities; ++o) rho[o] *= static_cast<T>(scale);
    multiply<T>(1, plan_.densities, channels, rho, plan_.densities, plan_.linear.transposed,
                channels, basis_.get(), channels, false);
    for (int64_t v = 0; v < channels; v += kLanes) {
      const Vec<T> up = load(basis_.get() + v);
      T *const grad = expansion_grad_.get() + at(v);
      for (int m = 0; m < kBasis; ++m) store(grad + m * kBlock, load(grad + m * kBlock) * up);
    }
    const T density_grad = plan_.has_density ? reverse_density(share) : T(0);
    if (plan_.is_factored()) {
      reverse_map_by_type(type, sums);
      reverse_expand(first, n, sums, density_grad);
    } else {
      reverse_expand(first, n, expansion_grad_.get(), density_grad);
    }
    return energy;
  }

  // dE/d(edge vector) of the edges [0, n), with the tangential part of the harmonics' gradient alone.
  void finish(int64_t n)
  {
    for (int64_t e = 0; e < n; e += kLanes) {
      Vec<T> weight[kRow], g[3];
      for (int tile = 0; tile < kRow; tile += kLanes) {
        for (int i = 0; i < kLanes; ++i)
          weight[tile + i] = load(angular_.get() + (e + i) * kRow + tile);
        transpose<T>(weight + tile);
      }
      const auto [ux, uy, uz] = unit(e);
      const Vec<T> inverse = load(inverse_length_.get() + e);
      spherical_harmonics_reverse<L, T>(ux, uy, uz, weight, g);
      const Vec<T> along = weight[0] * load(inverse_width_.get() + e) -
                           (g[0] * ux + g[1] * uy + g[2] * uz) * inverse;
      store(gradient_.get() + e, g[0] * inverse + along * ux);
      store(gradient_.get() + room_ + e, g[1] * inverse + along * uy);
      store(gradient_.get() + 2 * room_ + e, g[2] * inverse + along * uz);
    }
  }

  double vector(int64_t e, int component) const { return vectors_.get()[component * room_ + e]; }
  double gradient(int64_t e, int component) const { return gradient_.get()[component * room_ + e]; }

 private:
  struct Unit {
    Vec<T> x, y, z;
  };

  Unit unit(int64_t e) const
  {
    return {load(unit_.get() + e), load(unit_.get() + room_ + e),
            load(unit_.get() + 2 * room_ + e)};
  }

  // Of one vector of channels, rows of the expansion and their gradient.
  int64_t at(int64_t v) const { return v / kBlock * kBasis * kBlock + v % kBlock; }

  void measure(int64_t n)
  {
    const double *__restrict x = vectors_.get(), *__restrict y = x + room_,
                             *__restrict z = y + room_;
    double *__restrict lengths = lengths_.get(), *__restrict inverse = inverse_.get();
    for (int64_t e = 0; e < n; ++e) {
      const double length = std::sqrt(x[e] * x[e] + y[e] * y[e] + z[e] * z[e]);
      lengths[e] = length;
      inverse[e] = 1.0 / length;
    }
    // A loop of its own for each array: the compiler makes vectors of loops over one type.
    T *__restrict unit = unit_.get(), *__restrict inverse_length = inverse_length_.get();
    for (int a = 0; a < 3; ++a)
      for (int64_t e = 0; e < n; ++e)
        unit[a * room_ + e] = static_cast<T>(x[a * room_ + e] * inverse[e]);
    for (int64_t e = 0; e < n; ++e) inverse_length[e] = static_cast<T>(inverse[e]);
  }

  // As IntervalEnds::find. No place beyond the cutoff, where all functions are zero with two
  // derivatives.
  void find_rows(int64_t n)
  {
    for (int64_t e = 0; e < n; ++e) {
      const int64_t pair = plan_.is_factored() ? 0 : kind_.get()[e];
      const IntervalEnds &table = plan_.intervals[pair];
      const double r = lengths_.get()[e];
      row_.get()[e] = nullptr;
      if (!(r < table.ends[table.num_intervals])) continue;
      const auto cell = static_cast<int64_t>(r * plan_.cells_per_length[pair]);
      int64_t interval = table.cells[std::min(cell, table.num_cells - 1)];
      // Most cells hold one end at most; a branch on it would be mispredicted half of the time.
      interval += r >= table.ends[interval + 1];
      while (r >= table.ends[interval + 1]) ++interval;
      const int64_t row = pair * table.num_intervals + interval;
      const double inverse_width = plan_.inverse_widths[row];
      place_.get()[e] = static_cast<T>((r - table.ends[interval]) * inverse_width);
      inverse_width_.get()[e] = static_cast<T>(inverse_width);
      row_.get()[e] = plan_.table + row * 6 * plan_.row_width();
    }
  }

  // Into [blocks][basis][block].
  template <bool Factored> void expand(int64_t first, int64_t n, T *sums)
  {
    const int64_t c = plan_.summed, width = plan_.functions(), stride = plan_.row_width();
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> total[kBasis] = {};
      for (int64_t e = 0; e < n; ++e) {
        const T *const row = row_.get()[first + e];
        if (!row) continue;
        T *const values = values_.get() + e * width + v;
        T *const slopes = slopes_.get() + e * width + v;
        const T t = place_.get()[first + e];
        const T *const y = harmonics_.get() + (first + e) * kRow;
        Vec<T> factor{};
        if constexpr (Factored) factor = load(plan_.neighbours + kind_.get()[first + e] * c + v);
#pragma GCC unroll 8
        for (int degree = 0; degree <= L; ++degree) {
          const T *const p = row + degree * c + v;
          Vec<T> value = load(p + 5 * stride), slope{};
#pragma GCC unroll 8
          for (int power = 4; power >= 0; --power) {
            slope = slope * t + value;
            value = value * t + load(p + power * stride);
          }
          if constexpr (Factored) {
            value *= factor;
            slope *= factor;
          }
          store(values + degree * c, value);
          store(slopes + degree * c, slope);
#pragma GCC unroll 16
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m)
            total[m] += value * y[m];
        }
      }
      for (int m = 0; m < kBasis; ++m) store(sums + at(v) + m * kBlock, total[m]);
    }
  }

  // A of the sums over the neighbours.
  void map_by_type(int64_t type, const T *sums)
  {
    each_degree(type, [&](int m, int components, const Product<T> &map) {
      multiply_blocks(components, map.in, map.out, sums + m * kBlock, map.weight,
                      expansion_.get() + m * kBlock);
    });
  }

  // dE/dS from dE/dA.
  void reverse_map_by_type(int64_t type, T *sums)
  {
    each_degree(type, [&](int m, int components, const Product<T> &map) {
      multiply_blocks(components, map.out, map.in, expansion_grad_.get() + m * kBlock,
                      map.transposed, sums + m * kBlock);
    });
  }

  // call(first component, components, the map of a type of centre).
  template <typename Call> void each_degree(int64_t type, Call call)
  {
    const int64_t first = plan_.maps.size() > L + 1 ? type * (L + 1) : 0;
    for (int degree = 0; degree <= L; ++degree)
      call(degree * degree, 2 * degree + 1, plan_.maps[first + degree]);
  }

  // Rows of [blocks][basis][block] on both sides, from their first component on.
  static void multiply_blocks(int64_t rows, int64_t in, int64_t out, const T *x, const T *matrix,
                              T *y)
  {
    for (int64_t o = 0; o < out; o += kBlock)
      for (int64_t i = 0; i < in; i += kBlock)
        multiply<T>(rows, kBlock, kBlock, x + i * kBasis, kBlock, matrix + i * out + o, out,
                    y + o * kBasis, kBlock, i > 0);
  }

  // Divides A by 1 + the sum of the edges' shares; returns the factor.
  T divide_by_density(int64_t first, int64_t n)
  {
    const int64_t stride = plan_.row_width();
    double density = 0.0;
    for (int64_t e = 0; e < n; ++e) {
      const T *const row = row_.get()[first + e];
      T value = 0, slope = 0;
      const T t = place_.get()[first + e];
      for (int power = 5; row && power >= 0; --power) {
        slope = slope * t + value;
        value = value * t + row[power * stride + plan_.functions()];
      }
      density += value;
      density_slopes_.get()[e] = slope;
    }
    const T factor = static_cast<T>(1.0 / (1.0 + density));
    T *const a = expansion_.get();
    for (int64_t i = 0; i < kBasis * plan_.channels; i += kLanes)
      store(a + i, load(a + i) * factor);
    return factor;
  }

  // dE/d(density) = -factor A · dE/dA, and dE/dA becomes that of A before the division.
  T reverse_density(T factor)
  {
    T *const grad = expansion_grad_.get();
    const int64_t n = kBasis * plan_.channels;
    Vec<T> total{};
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec<T> scaled = load(grad + i) * factor;
      total += load(expansion_.get() + i) * scaled;
      store(grad + i, scaled);
    }
    return -sum<T>(total);
  }

  // expansion_grad: dE/d(sums over the neighbours), [blocks][basis][block].
  void reverse_expand(int64_t first, int64_t n, const T *expansion_grad, T density_grad)
  {
    const int64_t c = plan_.summed, width = plan_.functions();
    for (int64_t e = 0; e < n; ++e) {
      T *const angular = angular_.get() + (first + e) * kRow;
      if (!row_.get()[first + e]) {
        std::fill_n(angular, kRow, T(0));
        inverse_width_.get()[first + e] = 0;
        continue;
      }
      const T *const y = harmonics_.get() + (first + e) * kRow;
      // Of dE/dY; that of l = 0 moves nothing, and dE/dr takes its place.
      Vec<T> part[kBasis] = {};
      for (int64_t v = 0; v < c; v += kLanes) {
        const T *const grad = expansion_grad + at(v);
        const T *const values = values_.get() + e * width + v;
        const T *const slopes = slopes_.get() + e * width + v;
#pragma GCC unroll 8
        for (int degree = 0; degree <= L; ++degree) {
          const Vec<T> value = load(values + degree * c);
          Vec<T> along{};
#pragma GCC unroll 16
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m) {
            const Vec<T> g = load(grad + m * kBlock);
            along += g * y[m];
            if (degree > 0) part[m] += value * g;
          }
          part[0] += load(slopes + degree * c) * along;
        }
      }
      lane_sums<T, kBasis>(part, angular);
      if (plan_.has_density) angular[0] += density_grad * density_slopes_.get()[e];
    }
  }

  const LocalMacePlan<T> &plan_;
  EmbeddingFunction<T> embedding_;
  const int64_t room_;
  // Of the batch's edges; x, y and z of a vector are room_ apart.
  Memory<double> vectors_, lengths_, inverse_;
  Memory<int32_t> kind_;
  Memory<const T *> row_;    // in the table; none beyond the cutoff
  Memory<T> place_, inverse_width_, unit_, inverse_length_;
  Memory<T> harmonics_, angular_;    // [edges, kRow]
  Memory<T> gradient_;
  Memory<T> values_, slopes_, density_slopes_;    // of the centre's edges
  // [blocks][basis][block]; the sums over neighbours become their gradient.
  Memory<T> sums_, expansion_, expansion_grad_;
  Memory<T> basis_, densities_;
};

// call(std::integral_constant<int, l_max>).
template <typename Call> void with_l_max(int l_max, Call call)
{
  static_assert(kMaxL == 4);
  switch (l_max) {
    case 0:
      return call(std::integral_constant<int, 0>{});
    case 1:
      return call(std::integral_constant<int, 1>{});
    case 2:
      return call(std::integral_constant<int, 2>{});
    case 3:
      return call(std::integral_constant<int, 3>{});
    default:
      return call(std::integral_constant<int, 4>{});
  }
}

}    // namespace kan_md::ops

#endif
