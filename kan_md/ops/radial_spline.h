// Quintic Hermite interpolation on a uniform grid from 0 to the cutoff.
//
// A knot stores f, h f', h^2 f''; the interpolant is C2 and its error is h^6/46080 max|f^(6)|.
// With t in [0, 1] inside an interval the six weights are the quintic Hermite basis (e.g. Boehm &
// Prautzsch, Numerical Methods, 1993, ch. 9), value weights first knot then second.

#ifndef KAN_MD_OPS_RADIAL_SPLINE_H
#define KAN_MD_OPS_RADIAL_SPLINE_H

#include <algorithm>
#include <cstdint>

namespace kan_md::ops {

constexpr int kKnotValues = 3;
constexpr int kSplineWeights = 2 * kKnotValues;

template <typename V> inline void spline_weights(V t, V *w)
{
  const V t2 = t * t, t3 = t2 * t;
  w[3] = t3 * (t * (t * 6 - 15) + 10);
  w[4] = t3 * (t * (t * (-3) + 7) - 4);
  w[5] = t3 * (t * (t - 2) + 1) / 2;
  w[0] = 1 - w[3];
  w[1] = t + t3 * (t * (t * (-3) + 8) - 6);
  w[2] = t2 * (t * (t * (3 - t) - 3) + 1) / 2;
}

// d/dr of the weights; inverse_step is 1/h.
template <typename V> inline void spline_slopes(V t, V inverse_step, V *w)
{
  const V t2 = t * t;
  w[3] = inverse_step * t2 * (t * (t * 30 - 60) + 30);
  w[4] = inverse_step * t2 * (t * (t * (-15) + 28) - 12);
  w[5] = inverse_step * t2 * (t * (t * 5 - 8) + 3) / 2;
  w[0] = -w[3];
  w[1] = inverse_step * (1 + t2 * (t * (t * (-15) + 32) - 18));
  w[2] = inverse_step * t * (t * (t * (12 - t * 5) - 9) + 2) / 2;
}

// The interval that r lies in and the place inside it; false beyond the cutoff, where the function
// is zero with two derivatives.
struct SplinePlace {
  int32_t knot = 0;
  double t = 0.0;
  double inverse_step = 0.0;
};

inline bool spline_place(double r, double cutoff, int64_t num_knots, SplinePlace &place)
{
  if (!(r < cutoff)) return false;
  place.inverse_step = (num_knots - 1) / cutoff;
  const double s = r * place.inverse_step;
  place.knot = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(s), num_knots - 2));
  place.t = s - place.knot;
  return true;
}

}    // namespace kan_md::ops

#endif
