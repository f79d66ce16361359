// Polynomials of degree five on pieces: the one kind of table that a function of one variable has.
//
// kan_md/ops/quintics.py says how pieces follow each other and why. Here is what finds the piece of a
// variable, one struct for each way, and quintic(), which evaluates all of them.

#ifndef KAN_MD_OPS_PIECEWISE_H
#define KAN_MD_OPS_PIECEWISE_H

#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace kan_md::ops {

// Coefficients of a piece; a row of floats with two zeros behind them lies in one cache line.
constexpr int kPiecePowers = 6, kPieceRow = 8;

// c_0 + c_1 u + ... + c_5 u^5, a number or a vector; coefficient(p) gives c_p.
template <typename V, typename U, typename Coefficient>
KAN_MD_INLINE V quintic(U u, Coefficient coefficient)
{
  V value = coefficient(kPiecePowers - 1);
#pragma GCC unroll 6
  for (int power = kPiecePowers - 2; power >= 0; --power) value = value * u + coefficient(power);
  return value;
}

// The same and its slope by u, side by side: slope' = slope u + value, value' = value u + c.
template <typename V, typename U, typename Coefficient>
KAN_MD_INLINE V quintic(U u, Coefficient coefficient, V &slope)
{
  V value = coefficient(kPiecePowers - 1);
  slope = value;
  value = value * u + coefficient(kPiecePowers - 2);
#pragma GCC unroll 6
  for (int power = kPiecePowers - 3; power >= 0; --power) {
    slope = slope * u + value;
    value = value * u + coefficient(power);
  }
  return value;
}

// Pieces with cuts anywhere on [0, cutoff]: the tables of one pair of types, see
// kan_md/ops/interval_tables.py.

struct IntervalPlace {
  int64_t interval = 0;
  double t = 0.0;    // in [0, 1] inside it
  double inverse_width = 0.0;
};

// cells: the interval that holds the start of each of equal parts of [0, cutoff], from where it is few
// steps to the one that holds r.
struct IntervalEnds {
  const double *ends;    // [num_intervals + 1], the last one is the cutoff
  const int32_t *cells;
  int64_t num_intervals, num_cells;

  // False beyond the cutoff, where all functions are zero with two derivatives.
  bool find(double r, IntervalPlace &place) const
  {
    const double cutoff = ends[num_intervals];
    if (!(r < cutoff)) return false;
    const auto cell = static_cast<int64_t>(r / cutoff * static_cast<double>(num_cells));
    place.interval = cells[std::min(cell, num_cells - 1)];
    while (r >= ends[place.interval + 1]) ++place.interval;
    const double low = ends[place.interval];
    place.inverse_width = 1.0 / (ends[place.interval + 1] - low);
    place.t = (r - low) * place.inverse_width;
    return true;
  }
};

// Pieces of one width h on [0, cutoff], kept as f, h f', h^2 f'' at the knots between them, which is
// less than what a convolution would read for powers: quintic Hermite interpolation (e.g. Boehm &
// Prautzsch, Numerical Methods, 1993, ch. 9), C2 with an error of h^6/46080 max|f^(6)|.
//
// A slope is made of the difference d of f between both knots. Taken from two rounded values it has
// lost as many digits as there are knots, so a fourth number of every knot is d to the next one.
// Tables of three, of files that were deployed before, are read as they are.

constexpr int kKnotValues = 4, kKnotValuesWithoutSteps = 3;
constexpr int kSplineWeights = 6;

struct SplinePlace {
  int32_t knot = 0;
  double t = 0.0;
  double inverse_step = 0.0;
};

// False beyond the cutoff, where the function is zero with two derivatives.
inline bool spline_place(double r, double cutoff, int64_t num_knots, SplinePlace &place)
{
  if (!(r < cutoff)) return false;
  place.inverse_step = (num_knots - 1) / cutoff;
  const double s = r * place.inverse_step;
  place.knot = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(s), num_knots - 2));
  place.t = s - place.knot;
  return true;
}

// What the values of two knots are multiplied by, first knot first: six quintics of t in the lanes of
// one vector, the last two empty. slopes: d/dr of the same, or null. With steps the fourth one is of d
// instead of the second knot's f, so that of the first knot's f is the constant 1.
template <typename T>
void spline_weights(T t, T inverse_step, bool with_steps, T *weights, T *slopes)
{
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  static constexpr T kHermite[kPiecePowers][8] = {
      {1, 0, 0, 0, 0, 0, 0, 0},          {0, 1, 0, 0, 0, 0, 0, 0},
      {0, 0, T(0.5), 0, 0, 0, 0, 0},     {-10, -6, T(-1.5), 10, -4, T(0.5), 0, 0},
      {15, 8, T(1.5), -15, 7, -1, 0, 0}, {-6, -3, T(-0.5), 6, -3, T(0.5), 0, 0}};
  const auto coefficient = [](int power) __attribute__((always_inline)) {
    Eight c;
    std::memcpy(&c, kHermite[power], sizeof(c));
    return c;
  };
  Eight slope;
  const Eight value = quintic<Eight>(t, coefficient, slope);
  std::memcpy(weights, &value, kSplineWeights * sizeof(T));
  if (with_steps) weights[0] = T(1);
  if (!slopes) return;
  slope *= inverse_step;
  std::memcpy(slopes, &slope, kSplineWeights * sizeof(T));
  if (with_steps) slopes[0] = T(0);
}

// Pieces of one width for each input of a KAN, x = (piece - origin + u) / inverse_step; the first and
// the last one reach to infinity. Counting from x = 0 keeps the relative precision of small arguments,
// and phi(0) is a stored number. NaN falls to a piece that there is and stays NaN in the place.
//
// With a tail as many pieces to either side, and the lines behind them, are wider than those between.
template <typename T> struct Pieces {
  const T *pieces = nullptr;          // [in, num_pieces, kPieceRow]; null: there are none
  const T *inverse_step = nullptr;    // [in]
  const T *tail_ratio = nullptr;      // [in], width of the other pieces by that of the tail's
  int32_t num_pieces = 0, origin = 0, num_tail = 0;
};

// The six powers of eight pieces, transposed: from memory rows to one vector per power. Gathers do
// the same in one instruction that is slower than this on most processors.
template <typename T> struct EightPieces {
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  Eight of[kPiecePowers];
  KAN_MD_INLINE EightPieces(const T *pieces, const int32_t *at)
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
    of[0] = first_halves(even0, even1);
    of[1] = first_halves(odd0, odd1);
    of[2] = first_halves(even(high[0], high[1]), even(high[2], high[3]));
    of[3] = first_halves(odd(high[0], high[1]), odd(high[2], high[3]));
    of[4] = __builtin_shufflevector(even0, even1, 4, 5, 6, 7, 12, 13, 14, 15);
    of[5] = __builtin_shufflevector(odd0, odd1, 4, 5, 6, 7, 12, 13, 14, 15);
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

// sum_i phi_i(x_i) and the slopes dphi_i/dx_i of one row. slope may be x; without Slopes it is not
// touched.
template <typename T, bool Slopes, bool Tail>
T piecewise_row_of(int64_t in, const T *x, const Pieces<T> &f, T *slope)
{
  typedef typename EightPieces<T>::Eight Eight;
  constexpr int kChunk = 64;
  T u[kChunk], per_unit[kChunk], rest = 0;
  int32_t at[kChunk];
  Eight total{};
  const T first = static_cast<T>(-f.origin), last = static_cast<T>(f.num_pieces - 1 - f.origin);
  const T low = first + static_cast<T>(f.num_tail + 1), high = last - static_cast<T>(f.num_tail);
  for (int64_t begin = 0; begin < in; begin += kChunk) {
    const int count = static_cast<int>(std::min<int64_t>(kChunk, in - begin));
    const T *mine = f.pieces + kPieceRow * begin * f.num_pieces;
    // Plain numbers: the compiler has wider vectors for this than eight lanes.
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      T s = x[begin + i] * f.inverse_step[begin + i];
      per_unit[i] = f.inverse_step[begin + i];
      if constexpr (Tail) {
        const T inside = std::max(low, std::min(s, high)), ratio = f.tail_ratio[begin + i];
        per_unit[i] *= s == inside ? T(1) : ratio;
        s = inside + (s - inside) * ratio;
      }
      const T cell = std::floor(std::max(first, std::min(s, last)));
      u[i] = s - cell;
      at[i] = kPieceRow * (i * f.num_pieces + static_cast<int32_t>(cell) + f.origin);
    }
    int i = 0;
    for (; i + 8 <= count; i += 8) {
      const EightPieces<T> c(mine, at + i);
      Eight v, step, rise;
      std::memcpy(&v, u + i, sizeof(v));
      const auto coefficient = [&](int power)
                                   __attribute__((always_inline)) { return c.of[power]; };
      if constexpr (!Slopes) {
        total += quintic<Eight>(v, coefficient);
      } else {
        std::memcpy(&step, per_unit + i, sizeof(step));
        total += quintic<Eight>(v, coefficient, rise);
        step *= rise;
        std::memcpy(slope + begin + i, &step, sizeof(step));
      }
    }
    for (; i < count; ++i) {
      const T *c = mine + at[i];
      const auto coefficient = [c](int power) __attribute__((always_inline)) { return c[power]; };
      if constexpr (!Slopes) {
        rest += quintic<T>(u[i], coefficient);
      } else {
        T rise;
        rest += quintic<T>(u[i], coefficient, rise);
        slope[begin + i] = per_unit[i] * rise;
      }
    }
  }
  return rest + LaneSum<T, 8>::of(total);
}

template <typename T, bool Slopes = true>
T piecewise_row(int64_t in, const T *x, const Pieces<T> &f, T *slope)
{
  return f.num_tail > 0 ? piecewise_row_of<T, Slopes, true>(in, x, f, slope)
                        : piecewise_row_of<T, Slopes, false>(in, x, f, slope);
}

}    // namespace kan_md::ops

#endif
