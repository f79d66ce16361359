// Sums of univariate functions that are a polynomial of degree five on each cell of a uniform grid.

#ifndef KAN_MD_OPS_PIECEWISE_H
#define KAN_MD_OPS_PIECEWISE_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace kan_md::ops {

// Coefficients of a piece; a row of floats with two zeros behind them lies in one cache line.
constexpr int kPiecePowers = 6, kPieceRow = 8;

// The six powers of eight pieces, transposed: from memory rows to one vector per power. Gathers do
// the same in one instruction that is slower than this on most processors.
template <typename T> struct EightPieces {
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  Eight c0, c1, c2, c3, c4, c5;
  EightPieces(const T *pieces, const int32_t *at)
  {
    // Low and high: powers 0, 1 | 4, 5 and 2, 3 | 6, 7 of two rows, alternating.
    Eight low[4], high[4];
    for (int i = 0; i < 4; ++i) {
      Eight one, two;
      std::memcpy(&one, pieces + at[2 * i], sizeof(one));
      std::memcpy(&two, pieces + at[2 * i + 1], sizeof(two));
      low[i] = __builtin_shufflevector(one, two, 0, 8, 1, 9, 4, 12, 5, 13);
      high[i] = __builtin_shufflevector(one, two, 2, 10, 3, 11, 6, 14, 7, 15);
    }
    const Eight even0 = even(low[0], low[1]), even1 = even(low[2], low[3]);
    const Eight odd0 = odd(low[0], low[1]), odd1 = odd(low[2], low[3]);
    c0 = first_halves(even0, even1);
    c1 = first_halves(odd0, odd1);
    c2 = first_halves(even(high[0], high[1]), even(high[2], high[3]));
    c3 = first_halves(odd(high[0], high[1]), odd(high[2], high[3]));
    c4 = __builtin_shufflevector(even0, even1, 4, 5, 6, 7, 12, 13, 14, 15);
    c5 = __builtin_shufflevector(odd0, odd1, 4, 5, 6, 7, 12, 13, 14, 15);
  }

 private:
  static Eight even(Eight a, Eight b)
  {
    return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
  }
  static Eight odd(Eight a, Eight b)
  {
    return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  static Eight first_halves(Eight a, Eight b)
  {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
  }
};

// sum_i phi_i(x_i) and the slopes dphi_i/dx_i of one row.
//
// pieces: [in, num_pieces, kPieceRow], powers of the place u inside a piece, x = (piece - origin +
// u) / inverse_step; the first and the last piece reach to infinity. Counting from x = 0 keeps the
// relative precision of small arguments, and phi(0) is a stored number. NaN falls to the first piece
// and stays NaN in the place. slope may be x; without Slopes it is not touched.
template <typename T, bool Slopes = true>
T piecewise_row(int64_t in, const T *x, const T *pieces, const T *inverse_step, int32_t origin,
                int32_t num_pieces, T *slope)
{
  typedef typename EightPieces<T>::Eight Eight;
  constexpr int kChunk = 64;
  const T first = static_cast<T>(-origin), last = static_cast<T>(num_pieces - 1 - origin);
  T u[kChunk], rest = 0;
  int32_t at[kChunk];
  Eight total{};
  for (int64_t begin = 0; begin < in; begin += kChunk) {
    const int count = static_cast<int>(std::min<int64_t>(kChunk, in - begin));
    const T *mine = pieces + kPieceRow * begin * num_pieces;
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const T s = x[begin + i] * inverse_step[begin + i];
      const T cell = std::floor(std::max(first, std::min(s, last)));
      u[i] = s - cell;
      at[i] = kPieceRow * (i * num_pieces + static_cast<int32_t>(cell) + origin);
    }
    // Horner's scheme for value and slope side by side: slope' = slope u + value, value' = value u + c
    int i = 0;
    for (; i + 8 <= count; i += 8) {
      const EightPieces<T> c(mine, at + i);
      Eight v;
      std::memcpy(&v, u + i, sizeof(v));
      if constexpr (!Slopes) {
        total += ((((c.c5 * v + c.c4) * v + c.c3) * v + c.c2) * v + c.c1) * v + c.c0;
        continue;
      }
      Eight step;
      std::memcpy(&step, inverse_step + begin + i, sizeof(step));
      Eight value = c.c5 * v + c.c4, rise = c.c5;
      rise = rise * v + value;
      value = value * v + c.c3;
      rise = rise * v + value;
      value = value * v + c.c2;
      rise = rise * v + value;
      value = value * v + c.c1;
      rise = rise * v + value;
      total += value * v + c.c0;
      step *= rise;
      std::memcpy(slope + begin + i, &step, sizeof(step));
    }
    for (; i < count; ++i) {
      const T *c = mine + at[i];
      T value = c[5], rise = 0;
      for (int power = 4; power >= 0; --power) {
        rise = rise * u[i] + value;
        value = value * u[i] + c[power];
      }
      rest += value;
      if constexpr (Slopes) slope[begin + i] = inverse_step[begin + i] * rise;
    }
  }
  for (int lane = 0; lane < 8; ++lane) rest += total[lane];
  return rest;
}

}    // namespace kan_md::ops

#endif
