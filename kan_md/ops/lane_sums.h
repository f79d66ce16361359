// Sums over the lanes of several vectors at once.

#ifndef KAN_MD_OPS_LANE_SUMS_H
#define KAN_MD_OPS_LANE_SUMS_H

#include "simd.h"

#include <cstring>
#include <utility>

namespace kan_md::ops {

namespace detail {

// Neighbouring lanes of a, then of b, added up in pairs.
template <typename T, std::size_t... I>
inline Vec<T> add_pairs(Vec<T> a, Vec<T> b, std::index_sequence<I...>)
{
  return __builtin_shufflevector(a, b, (2 * I)...) + __builtin_shufflevector(a, b, (2 * I + 1)...);
}

}    // namespace detail

// out[i] = sum of the lanes of v[i], for i < Count; v is overwritten. Adding up pairs, pairs of pairs
// and so on costs about three operations per vector, where a sum of its own costs two per halving.
template <typename T, int Count> inline void lane_sums(Vec<T> *v, T *out)
{
  constexpr int kLanes = Simd<T>::kLanes;
  for (int begin = 0; begin < Count; begin += kLanes) {
    const int count = Count - begin < kLanes ? Count - begin : kLanes;
    Vec<T> *const mine = v + begin;
    int left = count;
#pragma GCC unroll 4
    for (int width = kLanes; width > 1; width /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < (left + 1) / 2; ++i)
        mine[i] = detail::add_pairs<T>(mine[2 * i], 2 * i + 1 < left ? mine[2 * i + 1] : Vec<T>{},
                                       std::make_index_sequence<kLanes>{});
      left = (left + 1) / 2;
    }
    std::memcpy(out + begin, mine, sizeof(T) * count);
  }
}

}    // namespace kan_md::ops

#endif
