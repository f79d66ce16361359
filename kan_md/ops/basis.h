// What the bases of a KAN are made of, on vectors: kan_md/kan/bases.py defines them.

#ifndef KAN_MD_OPS_BASIS_H
#define KAN_MD_OPS_BASIS_H

#include "activation.h"
#include "simd.h"

#include <cstdint>
#include <cstring>

namespace kan_md::ops {

template <typename T> struct IntegerVector {
  typedef typename ExpTraits<T>::Integer Integer;
  typedef Integer Type __attribute__((vector_size(kVectorBytes)));
};

template <typename T> using Integers = typename IntegerVector<T>::Type;

template <typename T> KAN_MD_INLINE Vec<T> fill(T value)
{
  return Vec<T>{} + value;
}

// sin and cos of 2 pi x, exactly 0 and 1 at x = 0. x - n/4 is exact, and Taylor's series is good to
// 3e-8 and 1e-17 on the eighth of a turn that remains.
template <typename T> KAN_MD_INLINE void sine_and_cosine(Vec<T> x, Vec<T> &sine, Vec<T> &cosine)
{
  constexpr int kTerms = sizeof(T) == 4 ? 4 : 8;
  const Vec<T> shifted = 4 * x + ExpTraits<T>::kRounder;    // its lowest bits are n
  const Vec<T> angle = (x - T(0.25) * (shifted - ExpTraits<T>::kRounder)) * T(6.283185307179586477);
  const Vec<T> square = angle * angle;
  Vec<T> s{}, c{};
#pragma GCC unroll 20
  for (int k = kTerms; k >= 0; --k) {
    s = kInverseFactorial<T>[2 * k + 1] - s * square;
    c = kInverseFactorial<T>[2 * k] - c * square;
  }
  s *= angle;
  Integers<T> quarter;
  std::memcpy(&quarter, &shifted, sizeof(quarter));
  sine = (quarter & 1) != 0 ? c : s;
  cosine = (quarter & 1) != 0 ? s : c;
  sine = (quarter & 2) != 0 ? -sine : sine;
  cosine = ((quarter + 1) & 2) != 0 ? -cosine : cosine;
}

// The cell that holds u >= 0, the last one beyond the grid.
template <typename T> KAN_MD_INLINE Vec<T> cell_of(Vec<T> u, T last)
{
  u = u < 0 ? fill<T>(0) : u;
  u = u > last ? fill<T>(last) : u;
  return __builtin_convertvector(__builtin_convertvector(u, Integers<T>), Vec<T>);
}

}    // namespace kan_md::ops

#endif
