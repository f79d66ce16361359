// Inner loops of the convolution over one cache line of channels, for one path (l1, l2).
//
// Forward:  Phi[m1, m2] = sum_j R(r_ij) H_j[m1] Y[m2]         (per centre, register accumulators)
// Reverse:  q[m1]   = sum_m2 Y[m2] D[m1, m2],  D = dE/dPhi    (per edge)
//           dE/dr   += R' sum_m1 H[m1] q[m1]
//           dE/dH_j[m1] += R q[m1]
//           dE/dY[m2]   += sum_m1 R H[m1] D[m1, m2]
// where every product is over channels. R, R' are interpolated from the two knot rows on the spot.

#ifndef KAN_MD_OPS_CONVOLUTION_KERNELS_H
#define KAN_MD_OPS_CONVOLUTION_KERNELS_H

#include "piecewise.h"
#include "simd.h"
#include "spherical_harmonics.h"

#include <array>
#include <utility>

namespace kan_md::ops {

// fourth: what the fourth weight multiplies, steps of the first knot or values of the second.
template <typename T>
inline Vec<T> interpolate(const T *w, const T *low, const T *fourth, const T *high, int v)
{
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes;
  const int at = v * kLanes;
  return w[0] * load(low + at) + w[1] * load(low + kBlock + at) +
         w[2] * load(low + 2 * kBlock + at) + w[3] * load(fourth + at) +
         w[4] * load(high + kBlock + at) + w[5] * load(high + 2 * kBlock + at);
}

// Radial function of one path on the edges of one centre. radial: [num_edges, block]; to_fourth: from
// the first value of a path to what the fourth weight multiplies.
template <typename T>
inline void radial_of_path(int64_t num_edges, const T *const *rows, int64_t path_offset,
                           int64_t row_size, int64_t to_fourth, const T *weights, T *radial)
{
  for (int64_t e = 0; e < num_edges; ++e) {
    const T *low = rows[e] + path_offset;
    for (int v = 0; v < Simd<T>::kVecs; ++v)
      store(radial + e * Simd<T>::kBlock + v * Simd<T>::kLanes,
            interpolate(weights + kSplineWeights * e, low, low + to_fourth, low + row_size, v));
  }
}

template <typename T>
using ForwardKernel = void (*)(int64_t num_edges, const T *radial, const T *features,
                               int64_t row_stride, const int32_t *neighbour, const T *harmonics,
                               int harmonics_stride, T *phi);

// features: [atom, 2 l1 + 1] rows of a block, row_stride apart; harmonics points at this path's l2 of
// the first edge; phi: [2 l1 + 1, 2 l2 + 1, block].
template <typename T, int L1, int L2>
void forward_path(int64_t num_edges, const T *radial, const T *features, int64_t row_stride,
                  const int32_t *neighbour, const T *harmonics, int harmonics_stride, T *phi)
{
  constexpr int N1 = 2 * L1 + 1, N2 = 2 * L2 + 1;
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes;
  for (int m1 = 0; m1 < N1; ++m1)
    for (int v = 0; v < Simd<T>::kVecs; ++v) {
      const int at = v * kLanes;
      Vec<T> total[N2] = {};
      for (int64_t e = 0; e < num_edges; ++e) {
        const T *h = features + (static_cast<int64_t>(neighbour[e]) * N1 + m1) * row_stride + at;
        const Vec<T> rh = load(radial + e * kBlock + at) * load(h);
        const T *y = harmonics + e * harmonics_stride;
#pragma GCC unroll 9
        for (int m2 = 0; m2 < N2; ++m2) total[m2] += y[m2] * rh;
      }
#pragma GCC unroll 9
      for (int m2 = 0; m2 < N2; ++m2) store(phi + (m1 * N2 + m2) * kBlock + at, total[m2]);
    }
}

template <typename T>
using ReverseKernel = void (*)(const T *weights, const T *slopes, const T *low, const T *fourth,
                               const T *high, const T *feature, T *feature_grad, int64_t row_stride,
                               const T *harmonics, const T *phi_grad, T *harmonics_grad,
                               T *radial_grad);

// One edge. feature, feature_grad: 2 l1 + 1 rows of a block, row_stride apart; harmonics: [2 l2 + 1];
// harmonics_grad: [2 l2 + 1, lanes] and radial_grad: [lanes] still have to be summed over lanes.
template <typename T, int L1, int L2>
void reverse_path(const T *weights, const T *slopes, const T *low, const T *fourth, const T *high,
                  const T *feature, T *feature_grad, int64_t row_stride, const T *harmonics,
                  const T *phi_grad, T *harmonics_grad, T *radial_grad)
{
  constexpr int N1 = 2 * L1 + 1, N2 = 2 * L2 + 1;
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes;
  for (int v = 0; v < Simd<T>::kVecs; ++v) {
    const int at = v * kLanes;
    const Vec<T> r = interpolate(weights, low, fourth, high, v);
    const Vec<T> slope = interpolate(slopes, low, fourth, high, v);
    Vec<T> y_grad[N2];
#pragma GCC unroll 9
    for (int m2 = 0; m2 < N2; ++m2) y_grad[m2] = load(harmonics_grad + m2 * kLanes);
    Vec<T> along{};
#pragma GCC unroll 1
    for (int m1 = 0; m1 < N1; ++m1) {
      const Vec<T> h = load(feature + m1 * row_stride + at);
      const Vec<T> rh = r * h;
      Vec<T> q{};
#pragma GCC unroll 9
      for (int m2 = 0; m2 < N2; ++m2) {
        const Vec<T> d = load(phi_grad + (m1 * N2 + m2) * kBlock + at);
        q += harmonics[m2] * d;
        y_grad[m2] += rh * d;
      }
      along += h * q;
      T *g = feature_grad + m1 * row_stride + at;
      store(g, load(g) + r * q);
    }
#pragma GCC unroll 9
    for (int m2 = 0; m2 < N2; ++m2) store(harmonics_grad + m2 * kLanes, y_grad[m2]);
    store(radial_grad, load(radial_grad) + slope * along);
  }
}

namespace detail {
constexpr int kNumL = kMaxL + 1;

template <typename T, size_t... I>
constexpr std::array<ForwardKernel<T>, sizeof...(I)> forward_table(std::index_sequence<I...>)
{
  return {&forward_path<T, static_cast<int>(I) / kNumL, static_cast<int>(I) % kNumL>...};
}

template <typename T, size_t... I>
constexpr std::array<ReverseKernel<T>, sizeof...(I)> reverse_table(std::index_sequence<I...>)
{
  return {&reverse_path<T, static_cast<int>(I) / kNumL, static_cast<int>(I) % kNumL>...};
}
}    // namespace detail

template <typename T> ForwardKernel<T> forward_kernel(int l1, int l2)
{
  static constexpr auto kTable =
      detail::forward_table<T>(std::make_index_sequence<detail::kNumL * detail::kNumL>());
  return kTable[l1 * detail::kNumL + l2];
}

template <typename T> ReverseKernel<T> reverse_kernel(int l1, int l2)
{
  static constexpr auto kTable =
      detail::reverse_table<T>(std::make_index_sequence<detail::kNumL * detail::kNumL>());
  return kTable[l1 * detail::kNumL + l2];
}

}    // namespace kan_md::ops

#endif
