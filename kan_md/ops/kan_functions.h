// KAN layers with one output while they are trained: values, slopes, curvatures and moments of
// sum_i phi_i(scale_i x_i), with phi_i as kan_md/ops/function_sums.py defines it.
//
// With s = scale x, a function is sum_r sum_p w[r, p] R_r(s) s^p inside its grid, straight lines
// (rest[0] below, rest[1] above it) beyond, and rest[2] silu(step s) beside. Each kind of terms R_r s^p
// below gives f, f', f'' from one walk through its rows, and takes the moments of one walk:
// what alpha f + beta f' is multiplied by, for every number of w.

#ifndef KAN_MD_OPS_KAN_FUNCTIONS_H
#define KAN_MD_OPS_KAN_FUNCTIONS_H

#include "basis.h"
#include "dual.h"
#include "kan_rows.h"
#include "simd.h"

#include <cstdint>

namespace kan_md::ops {

// In the order of one flat array of weights: w, rest, scale, grid, each padded to whole blocks of inputs.
template <typename T> struct KanFunctions {
  Basis basis = Basis::kGaussian;
  int64_t in = 0, rows = 0, powers = 0, steps = 0;
  bool shifted = false, silu = false;
  const T *w = nullptr;        // [rows, powers, in]
  const T *rest = nullptr;     // [3, in]
  const T *scale = nullptr;    // [in]
  const T *grid = nullptr;     // [2, in]: place of zero in steps, x scale per step
  int64_t place = 0;           // of w in the array

  int64_t size() const { return (rows * powers + 6) * in; }
};

template <typename T> struct Taylor {
  Vec<T> f{}, slope{}, curve{};
};

namespace detail {

template <typename T> struct PlaceOnGrid {
  KAN_MD_INLINE PlaceOnGrid(Vec<T> x, const KanFunctions<T> &f, int64_t i) :
      scale(load(f.scale + i)), zero(load(f.grid + i)), step(load(f.grid + f.in + i)), s(x * scale),
      low(-zero), high(static_cast<T>(f.steps) - zero), inside(s < low ? low : s)
  {
    inside = inside > high ? high : inside;
  }
  KAN_MD_INLINE Vec<T> if_inside(Vec<T> a) const { return s == inside ? a : fill<T>(0); }
  KAN_MD_INLINE Vec<T> if_below(Vec<T> a) const { return s < low ? a : fill<T>(0); }
  KAN_MD_INLINE Vec<T> if_above(Vec<T> a) const { return s > high ? a : fill<T>(0); }

  Vec<T> scale, zero, step, s, low, high, inside;
};

// exp(-s^2 - 2 s d_m) = first * ratio^m, d_m = zero - m; its slope is -2 (s + d_m) times itself.
struct GaussianTerms {
  template <typename T> struct Row {
    KAN_MD_INLINE explicit Row(const PlaceOnGrid<T> &at) :
        value(vector_exp<T>(-at.inside * (at.inside + 2 * at.zero))),
        ratio(vector_exp<T>(2 * at.inside)), distance(at.inside + at.zero)
    {
    }
    KAN_MD_INLINE void advance()
    {
      value *= ratio;
      distance -= 1;
    }
    Vec<T> value, ratio, distance;
  };

  template <typename T>
  static KAN_MD_INLINE Taylor<T> evaluate(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                          int64_t i)
  {
    Row<T> row(at);
    const T at_zero = f.shifted;
    Vec<T> sum{}, moved{}, first{}, second{};
    for (int64_t r = 0; r < f.rows; ++r, row.advance()) {
      const Vec<T> w = load(f.w + r * f.in + i), term = w * row.value,
                   scaled_term = term * row.distance;
      moved += w * (row.value - at_zero);
      sum += term;
      first += scaled_term;
      second += scaled_term * row.distance;
    }
    return {moved, -2 * first, 4 * second - 2 * sum};
  }

  template <typename T>
  static KAN_MD_INLINE void add_moments(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                        int64_t i, Vec<T> alpha, Vec<T> beta, T *moments)
  {
    Row<T> row(at);
    const T at_zero = f.shifted;
    for (int64_t r = 0; r < f.rows; ++r, row.advance()) {
      T *const m = moments + r * f.in + i;
      store(m, load(m) + alpha * (row.value - at_zero) - 2 * beta * row.distance * row.value);
    }
  }
};

// Sines of all frequencies, then cosines.
struct FourierTerms {
  template <typename T> struct Row {
    KAN_MD_INLINE explicit Row(const PlaceOnGrid<T> &at)
    {
      sine_and_cosine<T>(at.inside, sine1, cosine1);
      sine = sine1;
      cosine = cosine1;
    }
    KAN_MD_INLINE void advance()
    {
      const Vec<T> before = sine;
      sine = before * cosine1 + cosine * sine1;
      cosine = cosine * cosine1 - before * sine1;
      omega += kTurn;
    }
    static constexpr T kTurn = 6.283185307179586477;
    Vec<T> sine1, cosine1, sine, cosine;
    T omega = kTurn;
  };

  template <typename T>
  static KAN_MD_INLINE Taylor<T> evaluate(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                          int64_t i)
  {
    Row<T> row(at);
    const T at_zero = f.shifted;
    Taylor<T> sum;
    for (int64_t r = 0; r < f.rows / 2; ++r, row.advance()) {
      const Vec<T> a = load(f.w + r * f.in + i), b = load(f.w + (f.rows / 2 + r) * f.in + i);
      sum.f += a * row.sine + b * (row.cosine - at_zero);
      sum.slope += row.omega * (a * row.cosine - b * row.sine);
      sum.curve -= row.omega * row.omega * (a * row.sine + b * row.cosine);
    }
    return sum;
  }

  template <typename T>
  static KAN_MD_INLINE void add_moments(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                        int64_t i, Vec<T> alpha, Vec<T> beta, T *moments)
  {
    Row<T> row(at);
    const T at_zero = f.shifted;
    for (int64_t r = 0; r < f.rows / 2; ++r, row.advance()) {
      T *const a = moments + r * f.in + i, *const b = a + f.rows / 2 * f.in;
      const Vec<T> turned = beta * row.omega;
      store(a, load(a) + alpha * row.sine + turned * row.cosine);
      store(b, load(b) + alpha * (row.cosine - at_zero) - turned * row.sine);
    }
  }
};

// Polynomials per cell, in powers of the place within the cell as seen from that of zero.
template <int Powers> struct SplineTerms {
  template <typename T> struct Row {
    KAN_MD_INLINE Row(const KanFunctions<T> &f, const PlaceOnGrid<T> &at)
    {
      const T last = static_cast<T>(f.rows - 1);
      cell = cell_of<T>(at.inside + at.zero, last);
      power = at.inside - (cell - cell_of<T>(at.zero, last));
    }
    Vec<T> cell, power;
  };

  template <typename T>
  static KAN_MD_INLINE Taylor<T> evaluate(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                          int64_t i)
  {
    const Row<T> row(f, at);
    Vec<T> coefficients[Powers];
    for (int p = 0; p < Powers; ++p) coefficients[p] = load(f.w + p * f.in + i);
    for (int64_t r = 1; r < f.rows; ++r)
      for (int p = 0; p < Powers; ++p) {
        const Vec<T> other = load(f.w + (r * Powers + p) * f.in + i);
        coefficients[p] = row.cell == static_cast<T>(r) ? other : coefficients[p];
      }
    Taylor<T> sum;
    for (int p = Powers; p-- > 0;) {
      sum.curve = sum.curve * row.power + sum.slope;
      sum.slope = sum.slope * row.power + sum.f;
      sum.f = sum.f * row.power + coefficients[p];
    }
    sum.curve *= 2;
    return sum;
  }

  template <typename T>
  static KAN_MD_INLINE void add_moments(const KanFunctions<T> &f, const PlaceOnGrid<T> &at,
                                        int64_t i, Vec<T> alpha, Vec<T> beta, T *moments)
  {
    const Row<T> row(f, at);
    Vec<T> weights[Powers], power = fill<T>(1), below{};
    for (int p = 0; p < Powers; ++p) {
      weights[p] = alpha * power + static_cast<T>(p) * beta * below;
      below = power;
      power *= row.power;
    }
    for (int64_t r = 0; r < f.rows; ++r)
      for (int p = 0; p < Powers; ++p) {
        T *const m = moments + (r * Powers + p) * f.in + i;
        const Vec<T> before = load(m);
        store(m, row.cell == static_cast<T>(r) ? before + weights[p] : before);
      }
  }
};

// call.operator()<Terms>() for the kind of a layer.
template <typename T, typename Call> void with_terms(const KanFunctions<T> &f, Call &&call)
{
  if (f.basis == Basis::kGaussian) return call.template operator()<GaussianTerms>();
  if (f.basis == Basis::kFourier) return call.template operator()<FourierTerms>();
  switch (f.powers) {
    case 2:
      return call.template operator()<SplineTerms<2>>();
    case 3:
      return call.template operator()<SplineTerms<3>>();
    case 4:
      return call.template operator()<SplineTerms<4>>();
    case 5:
      return call.template operator()<SplineTerms<5>>();
    default:
      return call.template operator()<SplineTerms<6>>();
  }
}

template <typename T> KAN_MD_INLINE Taylor<T> silu_at(Vec<T> z)
{
  const Vec<T> sigma = 1 / (1 + vector_exp<T>(-z)), edge = sigma * (1 - sigma);
  return {z * sigma, sigma + z * edge, edge * (2 + z * (1 - 2 * sigma))};
}

template <typename Terms, typename T>
KAN_MD_INLINE Taylor<T> evaluate(const KanFunctions<T> &f, const PlaceOnGrid<T> &at, int64_t i)
{
  Taylor<T> result = Terms::template evaluate<T>(f, at, i);
  const Vec<T> below = load(f.rest + i), above = load(f.rest + f.in + i);
  result.f += at.if_below(below * (at.s - at.low)) + at.if_above(above * (at.s - at.high));
  result.slope = at.if_inside(result.slope) + at.if_below(below) + at.if_above(above);
  result.curve = at.if_inside(result.curve);
  if (f.silu) {
    const Vec<T> weight = load(f.rest + 2 * f.in + i);
    const Taylor<T> base = silu_at<T>(at.step * at.s);
    result.f += weight * base.f;
    result.slope += weight * at.step * base.slope;
    result.curve += weight * at.step * at.step * base.curve;
  }
  return result;
}

}    // namespace detail

// out[e, 0] += sum_i phi_i(x[e, x_at + i]); slopes[e, i] = phi_i'.
template <typename T, int Planes>
void add_functions(const KanFunctions<T> &f, const Rows<T, Planes, false> &x, int64_t x_at,
                   const Rows<T, Planes, false> &slopes, const Rows<T, Planes, false> &out)
{
  detail::with_terms(f, [&]<typename Terms>() {
    for (int64_t e = 0; e < x.count; ++e) {
      Number<T, Planes> total{};
      for (int64_t i = 0; i < f.in; i += Simd<T>::kLanes) {
        const Number<T, Planes> here = x.get(e, x_at + i);
        const detail::PlaceOnGrid<T> at(value_of<T, Planes>(here), f, i);
        const Taylor<T> phi = detail::evaluate<Terms>(f, at, i);
        const Number<T, Planes> s = scaled(here, at.scale);
        total += with_slope<T, Planes>(phi.f, phi.slope, s);
        slopes.put(e, i, with_slope<T, Planes>(phi.slope, phi.curve, s));
      }
      *out.value(e, 0) += sum<T>(value_of<T, Planes>(total));
      if constexpr (Planes == 2) *out.slope(e, 0) += sum<T>(total.slope);
    }
  });
}

// x_grad[e, x_at + i] += out_grad[e, 0] dphi_i/dx.
template <typename T, int Planes>
void reverse_functions(const KanFunctions<T> &f, const Rows<T, Planes, false> &slopes,
                       const Rows<T, Planes, true> &out_grad, const Rows<T, Planes, true> &x_grad,
                       int64_t x_at)
{
  for (int64_t e = 0; e < slopes.count; ++e) {
    const Number<T, Planes> grad = out_grad.broadcast(e, 0);
    for (int64_t i = 0; i < f.in; i += Simd<T>::kLanes)
      x_grad.add(e, x_at + i, scaled(grad * slopes.get(e, i), load(f.scale + i)));
  }
}

// Adds the gradient of w, rest and scale to weight_grads, which is laid out as they are.
template <typename T>
void add_function_gradients(const KanFunctions<T> &f, const Rows<T, 2, false> &x, int64_t x_at,
                            const Rows<T, 2, false> &slopes, const Rows<T, 2, true> &out_grad,
                            T *weight_grads)
{
  detail::with_terms(f, [&]<typename Terms>() {
    for (int64_t i = 0; i < f.in; i += Simd<T>::kLanes) {
      Vec<T> below{}, above{}, base{}, scale{};
      for (int64_t e = 0; e < x.count; ++e) {
        const Dual<T> here = x.get(e, x_at + i), grad = out_grad.broadcast(e, 0);
        const detail::PlaceOnGrid<T> at(here.value, f, i);
        const Vec<T> alpha = grad.slope, beta = grad.value * here.slope * at.scale;
        Terms::template add_moments<T>(f, at, i, alpha, at.if_inside(beta), weight_grads);
        below += at.if_below(alpha * (at.s - at.low) + beta);
        above += at.if_above(alpha * (at.s - at.high) + beta);
        if (f.silu) {
          const Taylor<T> silu = detail::silu_at<T>(at.step * at.s);
          base += alpha * silu.f + beta * at.step * silu.slope;
        }
        const Dual<T> product = here * grad * slopes.get(e, i);
        scale += product.slope;
      }
      const Vec<T> totals[] = {below, above, base, scale};
      for (int row = 0; row < 4; ++row) {
        T *const grads = weight_grads + (f.rows * f.powers + row) * f.in + i;
        store(grads, load(grads) + totals[row]);
      }
    }
  });
}

}    // namespace kan_md::ops

#endif
