// What every convolution needs of the graph: edges per centre, and per edge the neighbour, the
// spline's place and the spherical harmonics. Numbers per edge, never per edge and channel.

#ifndef KAN_MD_OPS_NEIGHBOURS_H
#define KAN_MD_OPS_NEIGHBOURS_H

#include "piecewise.h"
#include "simd.h"
#include "spherical_harmonics.h"

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

namespace kan_md::ops {

// Memory that is written before it is read: no zero fill.
template <typename T> struct Scratch {
  std::unique_ptr<T[]> data;
  explicit Scratch(int64_t size) : data(new T[size > 0 ? size : 1]) {}
  T *get() const { return data.get(); }
};

// Edges of centre i are [first[i], first[i+1]); part[k] is the first centre of thread k. Centres are
// the first atoms, all of them unless said otherwise.
struct CentreRanges {
  std::vector<int64_t> first;
  std::vector<int64_t> part;

  CentreRanges(const at::Tensor &edge_index, int64_t num_atoms, int num_threads) :
      CentreRanges(edge_index, num_atoms, num_threads, num_atoms)
  {
  }
  CentreRanges(const at::Tensor &edge_index, int64_t num_atoms, int num_threads,
               int64_t num_centres);
};

// How many of the first atoms an operator computes: what the tensor [1] int64 says, else all.
int64_t num_computed(const std::optional<at::Tensor> &num_centres, int64_t num_atoms);

// Number of types behind tables for num_pairs ordered pairs; checks all atoms' types against it.
int64_t checked_num_types(const at::Tensor &atom_types, int64_t num_pairs);

template <typename T> struct EdgeTerms {
  int num_harmonics;
  Scratch<T> harmonics;          // [num_edges, num_harmonics]
  Scratch<T> weights;            // [num_edges, 6]
  Scratch<T> slopes;             // [num_edges, 6], only for the reverse pass
  Scratch<int32_t> knot;         // [num_edges]
  Scratch<int32_t> pair;         // [num_edges], row of the table
  Scratch<int32_t> neighbour;    // [num_edges]

  EdgeTerms(int64_t num_edges, int l_max, bool with_slopes) :
      num_harmonics((l_max + 1) * (l_max + 1)), harmonics(num_edges * num_harmonics),
      weights(num_edges * kSplineWeights), slopes(with_slopes ? num_edges * kSplineWeights : 0),
      knot(num_edges), pair(num_edges), neighbour(num_edges), with_slopes_(with_slopes)
  {
  }

  // Fill edges [begin, end). vectors [num_edges, 3] in Å, of type R; cutoffs [num_pairs] in Å.
  template <typename R>
  void fill(const R *vectors, const int64_t *centres, const int64_t *neighbours,
            const int64_t *types, const double *cutoffs, int64_t num_pairs, int64_t num_types,
            int64_t num_knots, bool with_steps, int64_t begin, int64_t end);

 private:
  bool with_slopes_;
};

namespace detail {

// Unit vectors of up to kLanes edges, one edge per lane; 1/r beside them.
template <typename T, typename R> struct UnitVectors {
  Vec<T> x{}, y{}, z{}, inverse_length{};
  UnitVectors(const R *vectors, int64_t begin, int lanes)
  {
    for (int i = 0; i < lanes; ++i) {
      const R *v = vectors + 3 * (begin + i);
      const R inverse = 1 / std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
      x[i] = static_cast<T>(v[0] * inverse);
      y[i] = static_cast<T>(v[1] * inverse);
      z[i] = static_cast<T>(v[2] * inverse);
      inverse_length[i] = static_cast<T>(inverse);
    }
  }
};

template <int L, typename T, typename R>
void fill_harmonics(const R *vectors, int64_t begin, int64_t end, T *out)
{
  constexpr int kNum = (L + 1) * (L + 1);
  Vec<T> values[kNum];
  for (int64_t e = begin; e < end; e += Simd<T>::kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(Simd<T>::kLanes, end - e));
    const UnitVectors<T, R> unit(vectors, e, lanes);
    spherical_harmonics<L, T>(unit.x, unit.y, unit.z, values);
    for (int i = 0; i < lanes; ++i)
      for (int m = 0; m < kNum; ++m) out[(e + i) * kNum + m] = values[m][i];
  }
}

// grad [num_edges, 3] = radial r̂ + (1 - r̂ r̂) ∇Y·angular / r.
template <int L, typename T, typename R>
void fill_gradient(const R *vectors, const T *angular, const T *radial, int64_t begin, int64_t end,
                   R *grad)
{
  constexpr int kNum = (L + 1) * (L + 1);
  Vec<T> weight[kNum], g[3];
  for (int64_t e = begin; e < end; e += Simd<T>::kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(Simd<T>::kLanes, end - e));
    const UnitVectors<T, R> unit(vectors, e, lanes);
    Vec<T> along{};
    for (int m = 0; m < kNum; ++m) {
      weight[m] = Vec<T>{};
      for (int i = 0; i < lanes; ++i) weight[m][i] = angular[(e + i) * kNum + m];
    }
    for (int i = 0; i < lanes; ++i) along[i] = radial[e + i];
    spherical_harmonics_reverse<L, T>(unit.x, unit.y, unit.z, weight, g);
    along -= (g[0] * unit.x + g[1] * unit.y + g[2] * unit.z) * unit.inverse_length;
    const Vec<T> gx = g[0] * unit.inverse_length + along * unit.x;
    const Vec<T> gy = g[1] * unit.inverse_length + along * unit.y;
    const Vec<T> gz = g[2] * unit.inverse_length + along * unit.z;
    for (int i = 0; i < lanes; ++i) {
      grad[3 * (e + i)] = gx[i];
      grad[3 * (e + i) + 1] = gy[i];
      grad[3 * (e + i) + 2] = gz[i];
    }
  }
}

}    // namespace detail

template <typename T, typename R>
void harmonics_for(int l_max, const R *vectors, int64_t begin, int64_t end, T *out)
{
  switch (l_max) {
    case 0:
      return detail::fill_harmonics<0, T, R>(vectors, begin, end, out);
    case 1:
      return detail::fill_harmonics<1, T, R>(vectors, begin, end, out);
    case 2:
      return detail::fill_harmonics<2, T, R>(vectors, begin, end, out);
    case 3:
      return detail::fill_harmonics<3, T, R>(vectors, begin, end, out);
    default:
      return detail::fill_harmonics<4, T, R>(vectors, begin, end, out);
  }
}

// dE/d(edge vector) from dE/dY (angular, [num_edges, (l_max+1)^2]) and dE/dr (radial).
template <typename T, typename R>
void gradient_for(int l_max, const R *vectors, const T *angular, const T *radial, int64_t begin,
                  int64_t end, R *grad)
{
  switch (l_max) {
    case 0:
      return detail::fill_gradient<0, T, R>(vectors, angular, radial, begin, end, grad);
    case 1:
      return detail::fill_gradient<1, T, R>(vectors, angular, radial, begin, end, grad);
    case 2:
      return detail::fill_gradient<2, T, R>(vectors, angular, radial, begin, end, grad);
    case 3:
      return detail::fill_gradient<3, T, R>(vectors, angular, radial, begin, end, grad);
    default:
      return detail::fill_gradient<4, T, R>(vectors, angular, radial, begin, end, grad);
  }
}

template <typename T>
template <typename R>
void EdgeTerms<T>::fill(const R *vectors, const int64_t *centres, const int64_t *neighbours,
                        const int64_t *types, const double *cutoffs, int64_t num_pairs,
                        int64_t num_types, int64_t num_knots, bool with_steps, int64_t begin,
                        int64_t end)
{
  const int l_max =
      num_harmonics == 1 ? 0 : static_cast<int>(std::lround(std::sqrt(num_harmonics))) - 1;
  for (int64_t e = begin; e < end; ++e) {
    const double x = vectors[3 * e], y = vectors[3 * e + 1], z = vectors[3 * e + 2];
    const int64_t row = num_pairs == 1 ? 0 : types[centres[e]] * num_types + types[neighbours[e]];
    T *const w = weights.get() + kSplineWeights * e;
    T *const s = with_slopes_ ? slopes.get() + kSplineWeights * e : nullptr;
    SplinePlace place;
    if (spline_place(std::sqrt(x * x + y * y + z * z), cutoffs[row], num_knots, place)) {
      spline_weights(static_cast<T>(place.t), static_cast<T>(place.inverse_step), with_steps, w, s);
    } else {
      std::fill_n(w, kSplineWeights, T(0));
      if (s) std::fill_n(s, kSplineWeights, T(0));
    }
    knot.get()[e] = place.knot;
    pair.get()[e] = static_cast<int32_t>(row);
    neighbour.get()[e] = static_cast<int32_t>(neighbours[e]);
  }
  harmonics_for<T, R>(l_max, vectors, begin, end, harmonics.get());
}

}    // namespace kan_md::ops

#endif
