// Sums of univariate functions that are cubic on each cell of a uniform grid.

#ifndef KAN_MD_OPS_PIECEWISE_H
#define KAN_MD_OPS_PIECEWISE_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace kan_md::ops {

// The four powers of four pieces, transposed: from four memory rows to one vector per power. Gathers
// do the same in one instruction that is slower than this on most processors.
template <typename T> struct FourPieces {
  typedef T Quad __attribute__((vector_size(4 * sizeof(T))));
  Quad c0, c1, c2, c3;
  FourPieces(const T *pieces, const int32_t *at)
  {
    Quad row[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&row[i], pieces + at[i], sizeof(Quad));
    const Quad low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    const Quad high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    const Quad low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    const Quad high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    c0 = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    c1 = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    c2 = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    c3 = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
  }
};

// sum_i phi_i(x_i) and the slopes dphi_i/dx_i of one row.
//
// pieces: [in, num_pieces, 4], powers of the place u inside a piece, x = (piece - origin + u) /
// inverse_step; the first and the last piece reach to infinity. Counting from x = 0 keeps the
// relative precision of small arguments, and phi(0) is a stored number. NaN falls to the first piece
// and stays NaN in the place. slope may be x.
template <typename T>
T piecewise_row(int64_t in, const T *x, const T *pieces, const T *inverse_step, int32_t origin,
                int32_t num_pieces, T *slope)
{
  typedef typename FourPieces<T>::Quad Quad;
  constexpr int kChunk = 64;
  const T first = static_cast<T>(-origin), last = static_cast<T>(num_pieces - 1 - origin);
  T u[kChunk], rest = 0;
  int32_t at[kChunk];
  Quad total{};
  for (int64_t begin = 0; begin < in; begin += kChunk) {
    const int count = static_cast<int>(std::min<int64_t>(kChunk, in - begin));
    const T *mine = pieces + 4 * begin * num_pieces;
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const T s = x[begin + i] * inverse_step[begin + i];
      const T cell = std::floor(std::max(first, std::min(s, last)));
      u[i] = s - cell;
      at[i] = 4 * (i * num_pieces + static_cast<int32_t>(cell) + origin);
    }
    int i = 0;
    for (; i + 4 <= count; i += 4) {
      const FourPieces<T> c(mine, at + i);
      Quad v, step;
      std::memcpy(&v, u + i, sizeof(v));
      std::memcpy(&step, inverse_step + begin + i, sizeof(step));
      const Quad quadratic = c.c2 + v * c.c3, tail = c.c1 + v * quadratic;
      total += c.c0 + v * tail;
      step *= tail + v * (quadratic + v * c.c3);
      std::memcpy(slope + begin + i, &step, sizeof(step));
    }
    for (; i < count; ++i) {
      const T *c = mine + at[i], v = u[i];
      rest += c[0] + v * (c[1] + v * (c[2] + v * c[3]));
      slope[begin + i] = inverse_step[begin + i] * (c[1] + v * (2 * c[2] + 3 * v * c[3]));
    }
  }
  return rest + total[0] + total[1] + total[2] + total[3];
}

}    // namespace kan_md::ops

#endif
