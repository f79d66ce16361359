// Sums over the lanes of several vectors at once.

#ifndef KAN_MD_OPS_LANE_SUMS_H
#define KAN_MD_OPS_LANE_SUMS_H

#include "simd.h"

#include <cstring>
#include <utility>

namespace kan_md::ops {

namespace detail {

// Lanes whose number has the bit Width come from b, the others from a.
template <typename T, int Width, std::size_t... J>
inline Vec<T> blend(Vec<T> a, Vec<T> b, std::index_sequence<J...>)
{
  constexpr int kLanes = Simd<T>::kLanes;
  return __builtin_shufflevector(
      a, b, (static_cast<int>(J) & Width ? kLanes + static_cast<int>(J) : static_cast<int>(J))...);
}

// Every lane changes place with the one whose number differs by the bit Width.
template <typename T, int Width, std::size_t... J>
inline Vec<T> swap(Vec<T> a, std::index_sequence<J...>)
{
  return __builtin_shufflevector(a, a, (static_cast<int>(J) ^ Width)...);
}

// One vector of every two of Count, which adds up lanes that differ by the bit Width: of the first
// where that bit is not set, of the second where it is. A second one that is missing counts for
// nothing.
template <typename T, int Width, int Count> inline void add_lanes(Vec<T> *v)
{
  if constexpr (Width < Simd<T>::kLanes) {
    constexpr std::make_index_sequence<Simd<T>::kLanes> kAll{};
#pragma GCC unroll 16
    for (int i = 0; i < (Count + 1) / 2; ++i) {
      const Vec<T> a = v[2 * i], b = 2 * i + 1 < Count ? v[2 * i + 1] : a;
      v[i] = blend<T, Width>(a, b, kAll) + swap<T, Width>(blend<T, Width>(b, a, kAll), kAll);
    }
    add_lanes<T, 2 * Width, (Count + 1) / 2>(v);
  }
}

}    // namespace detail

// out[i] = sum of the lanes of v[i], for i < Count; v is overwritten. Adding up halves of the lanes of
// two vectors at once costs four operations per vector, of which one moves lanes; a sum of its own
// costs as much per halving.
template <typename T, int Count> inline void lane_sums(Vec<T> *v, T *out)
{
  constexpr int kLanes = Simd<T>::kLanes, kFirst = Count < kLanes ? Count : kLanes;
  detail::add_lanes<T, 1, kFirst>(v);
  std::memcpy(out, v, sizeof(T) * kFirst);
  if constexpr (Count > kLanes) lane_sums<T, Count - kLanes>(v + kLanes, out + kLanes);
}

}    // namespace kan_md::ops

#endif
