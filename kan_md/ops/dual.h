// Numbers a + b eps with eps^2 = 0, on vectors: what a function does to them is its derivative.
//
// Code for one kind of number, a vector or a dual one, is code for both. Arrays of dual numbers that
// matrices multiply are two planes, one behind the other, so that a product takes both as its rows:
// values, then slopes. Gradients lie the other way round, slopes first: then a sum over the rows of
// both planes, X^T G, is the slope of the sum over edges, which is the gradient of a weight.

#ifndef KAN_MD_OPS_DUAL_H
#define KAN_MD_OPS_DUAL_H

#include "basis.h"
#include "simd.h"

#include <cstdint>
#include <type_traits>

namespace kan_md::ops {

template <typename T> struct Dual {
  Vec<T> value, slope;
};

template <typename T> KAN_MD_INLINE Dual<T> operator+(Dual<T> a, Dual<T> b)
{
  return {a.value + b.value, a.slope + b.slope};
}

template <typename T> KAN_MD_INLINE Dual<T> &operator+=(Dual<T> &a, Dual<T> b)
{
  return a = a + b;
}

template <typename T> KAN_MD_INLINE Dual<T> operator*(Dual<T> a, Dual<T> b)
{
  return {a.value * b.value, a.value * b.slope + a.slope * b.value};
}

template <typename T> KAN_MD_INLINE Dual<T> operator-(Dual<T> a, Dual<T> b)
{
  return {a.value - b.value, a.slope - b.slope};
}

template <typename T> KAN_MD_INLINE Dual<T> &operator-=(Dual<T> &a, Dual<T> b)
{
  return a = a - b;
}

// With a number that is no variable, in all lanes.
template <typename T> KAN_MD_INLINE Dual<T> operator+(Dual<T> a, std::type_identity_t<T> b)
{
  return {a.value + b, a.slope};
}

template <typename T> KAN_MD_INLINE Dual<T> operator*(Dual<T> a, T b)
{
  return {a.value * b, a.slope * b};
}

template <typename T> KAN_MD_INLINE Dual<T> operator*(T b, Dual<T> a)
{
  return a * b;
}

// By a number that is no variable.
template <typename T, typename V> KAN_MD_INLINE Dual<T> scaled(Dual<T> a, V b)
{
  return {a.value * b, a.slope * b};
}

template <typename V> KAN_MD_INLINE V scaled(V a, V b)
{
  return a * b;
}

// A vector, or a dual one.
template <typename T, int Planes> using Number = std::conditional_t<Planes == 2, Dual<T>, Vec<T>>;

// f(x) from f and its derivatives there.
template <typename T, int Planes>
KAN_MD_INLINE Number<T, Planes> with_slope(Vec<T> f, Vec<T> derivative, Number<T, Planes> x)
{
  if constexpr (Planes == 2)
    return {f, derivative * x.slope};
  else
    return f;
}

template <typename T, int Planes> KAN_MD_INLINE Vec<T> value_of(Number<T, Planes> x)
{
  if constexpr (Planes == 2)
    return x.value;
  else
    return x;
}

// What a pass is made for: slopes of dual numbers.
template <typename T, int Planes> KAN_MD_INLINE Vec<T> result_of(Number<T, Planes> x)
{
  if constexpr (Planes == 2)
    return x.slope;
  else
    return x;
}

// Rows of numbers, one per edge, in planes of `count` rows. Gradient: slopes first.
template <typename T, int Planes, bool Gradient> struct Rows {
  static constexpr int64_t kValuePlane = Gradient ? Planes - 1 : 0;
  static constexpr int64_t kSlopePlane = Planes - 1 - kValuePlane;

  T *data = nullptr;
  int64_t count = 0, width = 0;

  int64_t all() const { return Planes * count; }
  T *value(int64_t row, int64_t at) const
  {
    return data + (kValuePlane * count + row) * width + at;
  }
  T *slope(int64_t row, int64_t at) const
  {
    return data + (kSlopePlane * count + row) * width + at;
  }

  KAN_MD_INLINE Number<T, Planes> get(int64_t row, int64_t at) const
  {
    if constexpr (Planes == 2)
      return {load(value(row, at)), load(slope(row, at))};
    else
      return load(value(row, at));
  }
  // One number in all lanes.
  KAN_MD_INLINE Number<T, Planes> broadcast(int64_t row, int64_t at) const
  {
    if constexpr (Planes == 2)
      return {fill<T>(*value(row, at)), fill<T>(*slope(row, at))};
    else
      return fill<T>(*value(row, at));
  }
  KAN_MD_INLINE void put(int64_t row, int64_t at, Number<T, Planes> x) const
  {
    if constexpr (Planes == 2) {
      store(value(row, at), x.value);
      store(slope(row, at), x.slope);
    } else {
      store(value(row, at), x);
    }
  }
  KAN_MD_INLINE void add(int64_t row, int64_t at, Number<T, Planes> x) const
  {
    put(row, at, get(row, at) + x);
  }
};

}    // namespace kan_md::ops

#endif
