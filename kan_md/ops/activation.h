// SiLU and its derivative on vectors.

#ifndef KAN_MD_OPS_ACTIVATION_H
#define KAN_MD_OPS_ACTIVATION_H

#include "simd.h"

#include <array>
#include <cstdint>
#include <cstring>

namespace kan_md::ops {

template <typename T> struct ExpTraits;

template <> struct ExpTraits<float> {
  typedef int32_t Integer;
  static constexpr int kMantissa = 23, kBias = 127, kDegree = 7;
  static constexpr float kLargest = 87.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRounder = 12582912.0f;    // 1.5 * 2^23
};

template <> struct ExpTraits<double> {
  typedef int64_t Integer;
  static constexpr int kMantissa = 52, kBias = 1023, kDegree = 13;
  static constexpr double kLargest = 707.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kRounder = 6755399441055744.0;    // 1.5 * 2^52
};

constexpr int kMostFactorials = 20;

// 1/k!
template <typename T>
constexpr std::array<T, kMostFactorials> kInverseFactorial = [] {
  std::array<T, kMostFactorials> values{1};
  double factorial = 1;
  for (int k = 1; k < kMostFactorials; ++k) values[k] = static_cast<T>(1 / (factorial *= k));
  return values;
}();

// exp(x) = 2^n exp(r) with r = x - n ln 2 in two parts (Cody and Waite) and Taylor's series of exp(r),
// |r| <= ln(2)/2: relative error below 1e-7 and 1e-15. Beyond +-kLargest it stays what it is there.
template <typename T> __attribute__((always_inline)) inline Vec<T> vector_exp(Vec<T> x)
{
  typedef ExpTraits<T> Traits;
  typedef typename Traits::Integer Integer;
  typedef Integer Integers __attribute__((vector_size(kVectorBytes)));
  const Vec<T> largest = Vec<T>{} + Traits::kLargest;
  x = x > largest ? largest : x;
  x = x < -largest ? -largest : x;
  // Adding the rounder leaves the nearest whole number in the lowest bits.
  const Vec<T> shifted = x * T(1.44269504088896340736) + Traits::kRounder;
  const Vec<T> n = shifted - Traits::kRounder;
  const Vec<T> r = (x - n * Traits::kLn2High) - n * Traits::kLn2Low;
  Vec<T> series{};
#pragma GCC unroll 20
  for (int k = Traits::kDegree; k >= 0; --k) series = series * r + kInverseFactorial<T>[k];
  const T rounder = Traits::kRounder;
  Integer zero;
  std::memcpy(&zero, &rounder, sizeof(zero));
  Integers bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits - zero + Traits::kBias) << Traits::kMantissa;
  Vec<T> power;
  std::memcpy(&power, &bits, sizeof(power));
  return series * power;
}

// y = x sigmoid(x); size is a whole number of vectors.
template <typename T> void silu(int64_t size, const T *x, T *y)
{
  for (int64_t i = 0; i < size; i += Simd<T>::kLanes) {
    const Vec<T> v = load(x + i);
    store(y + i, v / (1 + vector_exp<T>(-v)));
  }
}

// grad *= d silu(x)/dx
template <typename T> void silu_reverse(int64_t size, const T *x, T *grad)
{
  for (int64_t i = 0; i < size; i += Simd<T>::kLanes) {
    const Vec<T> v = load(x + i);
    const Vec<T> sigmoid = 1 / (1 + vector_exp<T>(-v));
    store(grad + i, load(grad + i) * sigmoid * (1 + v * (1 - sigmoid)));
  }
}

}    // namespace kan_md::ops

#endif
