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
#include <vector>

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

// What a number of w is to be multiplied by: alpha f + beta f'.
template <typename T> struct Weights {
  Vec<T> alpha{}, beta{};
};

// Each walk through the rows gives f, f', f'' within the grid and, with moments, adds to each number of
// moments, which is laid out as w, what it multiplies in alpha f + beta f'.

// exp(-s^2 - 2 s d_m) = first * ratio^m, d_m = zero - m; its slope is -2 (s + d_m) times itself.
struct GaussianTerms {
  template <bool Moments, typename T>
  static KAN_MD_INLINE Taylor<T> walk(const KanFunctions<T> &f, const PlaceOnGrid<T> &at, int64_t i,
                                      const Weights<T> &weights, T *moments)
  {
    Vec<T> value = vector_exp<T>(-at.inside * (at.inside + 2 * at.zero));
    const Vec<T> ratio = vector_exp<T>(2 * at.inside);
    Vec<T> distance = at.inside + at.zero, sum{}, moved{}, first{}, second{};
    const T at_zero = f.shifted;
    for (int64_t r = 0; r < f.rows; ++r) {
      const Vec<T> w = load(f.w + r * f.in + i), slope = distance * value, above = value - at_zero;
      moved += w * above;
      sum += w * value;
      first += w * slope;
      second += w * (slope * distance);
      if constexpr (Moments) {
        T *const m = moments + r * f.in + i;
        store(m, load(m) + weights.alpha * above - 2 * weights.beta * slope);
      }
      value *= ratio;
      distance -= 1;
    }
    return {moved, -2 * first, 4 * second - 2 * sum};
  }
};

// Sines of all frequencies, then cosines.
struct FourierTerms {
  template <bool Moments, typename T>
  static KAN_MD_INLINE Taylor<T> walk(const KanFunctions<T> &f, const PlaceOnGrid<T> &at, int64_t i,
                                      const Weights<T> &weights, T *moments)
  {
    constexpr T kTurn = 6.283185307179586477;
    Vec<T> sine1, cosine1;
    sine_and_cosine<T>(at.inside, sine1, cosine1);
    Vec<T> sine = sine1, cosine = cosine1;
    const T at_zero = f.shifted;
    T omega = kTurn;
    Taylor<T> sum;
    for (int64_t r = 0; r < f.rows / 2; ++r) {
      const int64_t sines = r * f.in + i, cosines = sines + f.rows / 2 * f.in;
      const Vec<T> a = load(f.w + sines), b = load(f.w + cosines), above = cosine - at_zero;
      sum.f += a * sine + b * above;
      sum.slope += omega * (a * cosine - b * sine);
      sum.curve -= omega * omega * (a * sine + b * cosine);
      if constexpr (Moments) {
        const Vec<T> turned = weights.beta * omega;
        T *const m = moments + sines, *const n = moments + cosines;
        store(m, load(m) + weights.alpha * sine + turned * cosine);
        store(n, load(n) + weights.alpha * above - turned * sine);
      }
      const Vec<T> before = sine;
      sine = before * cosine1 + cosine * sine1;
      cosine = cosine * cosine1 - before * sine1;
      omega += kTurn;
    }
    return sum;
  }
};

// Polynomials per cell, in powers of the place within the cell as seen from that of zero.
template <int Powers> struct SplineTerms {
  template <bool Moments, typename T>
  static KAN_MD_INLINE Taylor<T> walk(const KanFunctions<T> &f, const PlaceOnGrid<T> &at, int64_t i,
                                      const Weights<T> &weights, T *moments)
  {
    const T last = static_cast<T>(f.rows - 1);
    const Vec<T> cell = cell_of<T>(at.inside + at.zero, last);
    const Vec<T> place = at.inside - (cell - cell_of<T>(at.zero, last));
    Vec<T> factors[Powers], coefficients[Powers] = {}, power = fill<T>(1), below{};
    for (int p = 0; p < Powers; ++p) {
      factors[p] = weights.alpha * power + static_cast<T>(p) * weights.beta * below;
      below = power;
      power *= place;
    }
    for (int64_t r = 0; r < f.rows; ++r)
      for (int p = 0; p < Powers; ++p) {
        const int64_t entry = (r * Powers + p) * f.in + i;
        const Vec<T> w = load(f.w + entry);
        coefficients[p] = cell == static_cast<T>(r) ? w : coefficients[p];
        if constexpr (Moments) {
          const Vec<T> moment = load(moments + entry);
          store(moments + entry, cell == static_cast<T>(r) ? moment + factors[p] : moment);
        }
      }
    Taylor<T> sum;
    for (int p = Powers; p-- > 0;) {
      sum.curve = sum.curve * place + sum.slope;
      sum.slope = sum.slope * place + sum.f;
      sum.f = sum.f * place + coefficients[p];
    }
    sum.curve *= 2;
    return sum;
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

// What rest and scale are to be multiplied by, summed over edges.
template <typename T> struct OtherMoments {
  Vec<T> below{}, above{}, silu{}, scale{};

  void add_to(T *grads, int64_t stride) const
  {
    const Vec<T> all[] = {below, above, silu, scale};
    for (int row = 0; row < 4; ++row)
      store(grads + row * stride, load(grads + row * stride) + all[row]);
  }
};

// phi of one vector of inputs of one edge; with moments those of w are added to `moments`.
template <typename Terms, bool Moments, typename T>
KAN_MD_INLINE Taylor<T> evaluate(const KanFunctions<T> &f, const PlaceOnGrid<T> &at, int64_t i,
                                 Weights<T> weights, T *moments, OtherMoments<T> &others)
{
  const Vec<T> below = load(f.rest + i), above = load(f.rest + f.in + i);
  if constexpr (Moments) {
    others.below += at.if_below(weights.alpha * (at.s - at.low) + weights.beta);
    others.above += at.if_above(weights.alpha * (at.s - at.high) + weights.beta);
  }
  Taylor<T> silu;
  if (f.silu) {
    silu = silu_at<T>(at.step * at.s);
    silu.slope *= at.step;
    silu.curve *= at.step * at.step;
    if constexpr (Moments) others.silu += weights.alpha * silu.f + weights.beta * silu.slope;
  }
  weights.beta = at.if_inside(weights.beta);
  Taylor<T> sum = Terms::template walk<Moments>(f, at, i, weights, moments);
  const Vec<T> base = load(f.rest + 2 * f.in + i);
  sum.f +=
      at.if_below(below * (at.s - at.low)) + at.if_above(above * (at.s - at.high)) + base * silu.f;
  sum.slope = at.if_inside(sum.slope) + at.if_below(below) + at.if_above(above) + base * silu.slope;
  sum.curve = at.if_inside(sum.curve) + base * silu.curve;
  return sum;
}

template <typename T> KAN_MD_INLINE Weights<T> weights_of(Dual<T> grad, Dual<T> s)
{
  return {grad.slope, grad.value * s.slope};
}

}    // namespace detail

// out[e, 0] += sum_i phi_i(x[e, x_at + i]); slopes[e, i] = phi_i'. Where gradients are known already,
// out_grad, those of w, rest and scale are added to weight_grads, which is laid out as they are.
template <typename T, int Planes, bool Moments>
void add_functions(const KanFunctions<T> &f, const Rows<T, Planes, false> &x, int64_t x_at,
                   const Rows<T, Planes, false> &slopes, const Rows<T, Planes, false> &out,
                   const Rows<T, Planes, true> &out_grad, T *weight_grads)
{
  static_assert(Planes == 2 || !Moments);
  std::vector<Number<T, Planes>> totals(x.count);
  detail::with_terms(f, [&]<typename Terms>() {
    for (int64_t i = 0; i < f.in; i += Simd<T>::kLanes) {
      detail::OtherMoments<T> others;
      for (int64_t e = 0; e < x.count; ++e) {
        const Number<T, Planes> here = x.get(e, x_at + i);
        const detail::PlaceOnGrid<T> at(value_of<T, Planes>(here), f, i);
        const Number<T, Planes> s = scaled(here, at.scale);
        detail::Weights<T> weights;
        if constexpr (Moments) weights = detail::weights_of(out_grad.broadcast(e, 0), s);
        const Taylor<T> phi =
            detail::evaluate<Terms, Moments>(f, at, i, weights, weight_grads, others);
        totals[e] += with_slope<T, Planes>(phi.f, phi.slope, s);
        const Number<T, Planes> slope = with_slope<T, Planes>(phi.slope, phi.curve, s);
        slopes.put(e, i, slope);
        if constexpr (Moments) {
          const Dual<T> product = here * out_grad.broadcast(e, 0) * slope;
          others.scale += product.slope;
        }
      }
      if constexpr (Moments) others.add_to(weight_grads + f.rows * f.powers * f.in + i, f.in);
    }
  });
  for (int64_t e = 0; e < x.count; ++e) {
    *out.value(e, 0) += sum<T>(value_of<T, Planes>(totals[e]));
    if constexpr (Planes == 2) *out.slope(e, 0) += sum<T>(totals[e].slope);
  }
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

}    // namespace kan_md::ops

#endif
