// Transposed blocks of as many vectors as they have lanes.

#ifndef KAN_MD_OPS_TRANSPOSE_H
#define KAN_MD_OPS_TRANSPOSE_H

#include "simd.h"

#include <utility>

namespace kan_md::ops {

namespace detail {

// Blocks of Width lanes of a and b, every other one: the first of each pair, or the second.
template <typename T, int Width, bool Second, std::size_t... J>
inline Vec<T> alternate(Vec<T> a, Vec<T> b, std::index_sequence<J...>)
{
  constexpr int kLanes = Simd<T>::kLanes, kFrom = Second ? Width : 0;
  return __builtin_shufflevector(a, b,
                                 (static_cast<int>(J) & Width
                                      ? kLanes + static_cast<int>(J) - Width + kFrom
                                      : static_cast<int>(J) + kFrom)...);
}

template <typename T, int Width, std::size_t... I>
inline void exchange(Vec<T> *v, std::index_sequence<I...>)
{
  const auto pair = [v](int i) {
    const Vec<T> a = v[i], b = v[i + Width];
    constexpr std::make_index_sequence<Simd<T>::kLanes> kAll{};
    v[i] = alternate<T, Width, false>(a, b, kAll);
    v[i + Width] = alternate<T, Width, true>(a, b, kAll);
  };
  (pair(static_cast<int>(I) / Width * 2 * Width + static_cast<int>(I) % Width), ...);
}

template <typename T, int Width> inline void transpose_from(Vec<T> *v)
{
  if constexpr (Width < Simd<T>::kLanes) {
    exchange<T, Width>(v, std::make_index_sequence<Simd<T>::kLanes / 2>{});
    transpose_from<T, 2 * Width>(v);
  }
}

}    // namespace detail

// Lane j of vector i becomes lane i of vector j, for kLanes vectors: blocks of 1, 2, 4, ... lanes are
// exchanged across the diagonal.
template <typename T> inline void transpose(Vec<T> *v)
{
  detail::transpose_from<T, 1>(v);
}

}    // namespace kan_md::ops

#endif
