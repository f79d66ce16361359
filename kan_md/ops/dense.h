// Products of a few rows with a small matrix that stays in the cache.
//
// A register tile of kRows rows times up to four vectors of columns; the matrix is read row by row.
// All widths are multiples of kBlock (the layouts are padded), so there are no ragged columns.

#ifndef KAN_MD_OPS_DENSE_H
#define KAN_MD_OPS_DENSE_H

#include "simd.h"

#include <algorithm>
#include <cstdint>

namespace kan_md::ops {

// A matrix and its transpose, which is what a reverse pass multiplies by.
template <typename T> struct Product {
  const T *weight = nullptr;        // [in, out]
  const T *transposed = nullptr;    // [out, in]
  int64_t in = 0, out = 0;
};

namespace detail {

template <typename T, int Rows, int Vecs>
void multiply_tile(int64_t inner, const T *a, int64_t a_stride, const T *b, int64_t b_stride, T *c,
                   int64_t c_stride, bool add)
{
  constexpr int kLanes = Simd<T>::kLanes;
  Vec<T> total[Rows][Vecs];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v)
      total[r][v] = add ? load(c + r * c_stride + v * kLanes) : Vec<T>{};
  for (int64_t k = 0; k < inner; ++k) {
    Vec<T> row[Vecs];
    for (int v = 0; v < Vecs; ++v) row[v] = load(b + k * b_stride + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      const T left = a[r * a_stride + k];
      for (int v = 0; v < Vecs; ++v) total[r][v] += left * row[v];
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) store(c + r * c_stride + v * kLanes, total[r][v]);
}

template <typename T, int Vecs>
void multiply_columns(int64_t rows, int64_t inner, const T *a, int64_t a_stride, const T *b,
                      int64_t b_stride, T *c, int64_t c_stride, bool add)
{
  // Accumulators must fit the registers: 32 of AVX-512, 16 otherwise.
  constexpr int kRows = kVectorBytes == 64 ? 6 : (Vecs > 2 ? 3 : 4);
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    multiply_tile<T, kRows, Vecs>(inner, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride,
                                  c_stride, add);
  for (; r + 2 <= rows; r += 2)
    multiply_tile<T, 2, Vecs>(inner, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride,
                              c_stride, add);
  for (; r < rows; ++r)
    multiply_tile<T, 1, Vecs>(inner, a + r * a_stride, a_stride, b, b_stride, c + r * c_stride,
                              c_stride, add);
}

}    // namespace detail

// c[rows, columns] (+)= a[rows, inner] b[inner, columns], strides in elements.
template <typename T>
void multiply(int64_t rows, int64_t inner, int64_t columns, const T *a, int64_t a_stride,
              const T *b, int64_t b_stride, T *c, int64_t c_stride, bool add)
{
  constexpr int64_t kLanes = Simd<T>::kLanes;
  int64_t at = 0;
  for (; at + 4 * kLanes <= columns; at += 4 * kLanes)
    detail::multiply_columns<T, 4>(rows, inner, a, a_stride, b + at, b_stride, c + at, c_stride,
                                   add);
  for (; at + 2 * kLanes <= columns; at += 2 * kLanes)
    detail::multiply_columns<T, 2>(rows, inner, a, a_stride, b + at, b_stride, c + at, c_stride,
                                   add);
  for (; at + kLanes <= columns; at += kLanes)
    detail::multiply_columns<T, 1>(rows, inner, a, a_stride, b + at, b_stride, c + at, c_stride,
                                   add);
}

namespace detail {

template <typename T, int Rows, int Vecs>
void add_transposed_tile(int64_t inner, const T *a, int64_t a_stride, const T *b, int64_t b_stride,
                         T *c, int64_t c_stride)
{
  constexpr int kLanes = Simd<T>::kLanes;
  Vec<T> total[Rows][Vecs];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) total[r][v] = load(c + r * c_stride + v * kLanes);
  for (int64_t k = 0; k < inner; ++k) {
    Vec<T> row[Vecs];
    for (int v = 0; v < Vecs; ++v) row[v] = load(b + k * b_stride + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      const T left = a[k * a_stride + r];
      for (int v = 0; v < Vecs; ++v) total[r][v] += left * row[v];
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) store(c + r * c_stride + v * kLanes, total[r][v]);
}

template <typename T, int Vecs>
void add_transposed_columns(int64_t rows, int64_t inner, const T *a, int64_t a_stride, const T *b,
                            int64_t b_stride, T *c, int64_t c_stride)
{
  constexpr int kRows = kVectorBytes == 64 ? 6 : (Vecs > 2 ? 3 : 4);
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    add_transposed_tile<T, kRows, Vecs>(inner, a + r, a_stride, b, b_stride, c + r * c_stride,
                                        c_stride);
  for (; r + 2 <= rows; r += 2)
    add_transposed_tile<T, 2, Vecs>(inner, a + r, a_stride, b, b_stride, c + r * c_stride,
                                    c_stride);
  for (; r < rows; ++r)
    add_transposed_tile<T, 1, Vecs>(inner, a + r, a_stride, b, b_stride, c + r * c_stride,
                                    c_stride);
}

}    // namespace detail

// c[rows, columns] += a[inner, rows]^T b[inner, columns]: the gradient of a matrix.
template <typename T>
void add_transposed(int64_t rows, int64_t inner, int64_t columns, const T *a, int64_t a_stride,
                    const T *b, int64_t b_stride, T *c, int64_t c_stride)
{
  constexpr int64_t kLanes = Simd<T>::kLanes;
  int64_t at = 0;
  for (; at + 4 * kLanes <= columns; at += 4 * kLanes)
    detail::add_transposed_columns<T, 4>(rows, inner, a, a_stride, b + at, b_stride, c + at,
                                         c_stride);
  for (; at + 2 * kLanes <= columns; at += 2 * kLanes)
    detail::add_transposed_columns<T, 2>(rows, inner, a, a_stride, b + at, b_stride, c + at,
                                         c_stride);
  for (; at + kLanes <= columns; at += kLanes)
    detail::add_transposed_columns<T, 1>(rows, inner, a, a_stride, b + at, b_stride, c + at,
                                         c_stride);
}

}    // namespace kan_md::ops

#endif
