// Sums of univariate functions that are cubic on each cell of a uniform grid.

#ifndef KAN_MD_OPS_PIECEWISE_H
#define KAN_MD_OPS_PIECEWISE_H

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace kan_md::ops {

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
  const T first = static_cast<T>(-origin), last = static_cast<T>(num_pieces - 1 - origin);
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int32_t i = 0; i < static_cast<int32_t>(in); ++i) {
    const T s = x[i] * inverse_step[i];
    const T cell = std::floor(std::max(first, std::min(s, last)));
    const T u = s - cell;
    const int32_t at = 4 * (i * num_pieces + static_cast<int32_t>(cell) + origin);
    const T c1 = pieces[at + 1], c2 = pieces[at + 2], c3 = pieces[at + 3];
    total += pieces[at] + u * (c1 + u * (c2 + u * c3));
    slope[i] = inverse_step[i] * (c1 + u * (2 * c2 + 3 * u * c3));
  }
  return total;
}

}    // namespace kan_md::ops

#endif
