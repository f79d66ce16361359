// KAN layers with many outputs, y_o = sum_i phi_oi(x_i), forward and reverse.
//
// All phi_oi of an input are combinations of the same few basis functions. So a layer is a matrix
// product: per edge a row of basis functions [num_rows, in], each less its value at zero, SiLU last,
// times weights [num_rows * in, out]. The reverse is the transposed product times the functions'
// slopes. Piecewise cubics per output would need fewer operations per edge, but their tables, read
// at another place for every edge, are larger than a cache, and products of many edges with one
// matrix that stays there run at the speed of the arithmetic. And nothing is approximated.

#ifndef KAN_MD_OPS_KAN_ROWS_H
#define KAN_MD_OPS_KAN_ROWS_H

#include "activation.h"
#include "basis.h"
#include "dense.h"
#include "simd.h"

#include <algorithm>
#include <cstdint>

namespace kan_md::ops {

enum class Basis : int64_t { kBSpline = 0, kGaussian = 1, kFourier = 2 };

constexpr int64_t kMostOrder = 5;
constexpr int64_t kEdgesTogether = 48;    // their rows stay in the second-level cache

template <typename T> struct KanLayer {
  Basis basis = Basis::kGaussian;
  int64_t in = 0, num_basis = 0, order = 0, steps = 0;
  bool silu = false;
  const T *grid = nullptr;    // [3, in]: steps per unit of x, steps from the lower end to 0, step
  const T *at_zero = nullptr;    // [num_basis, in]
  const T *pieces = nullptr;     // [order + 1, order + 1] of kBSpline, see bases.cardinal_pieces
  Product<T> product;            // [num_rows * in, out]

  int64_t num_rows() const { return num_basis + silu; }
};

namespace detail {

// One vector of inputs of one edge on its grids.
template <typename T> struct GridPlace {
  KAN_MD_INLINE GridPlace(Vec<T> x, const KanLayer<T> &layer, int64_t i) :
      zero(load(layer.grid + layer.in + i)), s(x * load(layer.grid + i))
  {
    const Vec<T> low = -zero, high = static_cast<T>(layer.steps) - zero;
    beyond = (s < low ? s - low : fill<T>(0)) + (s > high ? s - high : fill<T>(0));
    inside = s < low ? low : s;
    inside = inside > high ? high : inside;
  }
  Vec<T> zero, s, inside, beyond;
};

// Each calls row(number, value, slope, curvature) for every basis function at place.inside, by steps.
// Neighbours follow from the middle one of each eight: exp(-(d - k)^2) = exp(-d^2) exp(2 d)^k e^(-k^2).
struct GaussianBasis {
  static constexpr int64_t kTogether = 8;
  static constexpr double kConstants[] = {1, 0.36787944117144233, 0.018315638888734180,
                                          1.2340980408667956e-4, 1.1253517471925912e-7};

  template <typename T, typename Row>
  KAN_MD_INLINE static void visit(const KanLayer<T> &layer, const GridPlace<T> &place, Row row)
  {
    const Vec<T> u = place.inside + place.zero;
    for (int64_t begin = 0; begin < layer.num_basis; begin += kTogether) {
      const int64_t end = std::min(begin + kTogether, layer.num_basis), middle = (begin + end) / 2;
      const Vec<T> d = u - static_cast<T>(middle);
      // d^2 is up to 16, and what its rounding loses would be lost of every function.
      const Vec<T> coarse = (d * 16 + ExpTraits<T>::kRounder - ExpTraits<T>::kRounder) / 16;
      const Vec<T> square = d * d;
      const Vec<T> lost = (coarse * coarse - square) + (d - coarse) * (d + coarse);
      Vec<T> at_middle = vector_exp<T>(-square) * (1 - lost);
      at_middle = square > ExpTraits<T>::kLargest ? fill<T>(0) : at_middle;    // exp stops there
      const auto give = [&](int64_t m, Vec<T> value) __attribute__((always_inline)) {
        const Vec<T> distance = u - static_cast<T>(m), slope = -2 * distance * value;
        row(m, value, slope, -2 * (value + distance * slope));
      };
      give(middle, at_middle);
      const Vec<T> up = vector_exp<T>(2 * d), down = vector_exp<T>(-2 * d);
      Vec<T> power = at_middle;
      for (int64_t k = 1; middle + k < end; ++k) {
        power *= up;
        give(middle + k, power * static_cast<T>(kConstants[k]));
      }
      power = at_middle;
      for (int64_t k = 1; middle - k >= begin; ++k) {
        power *= down;
        give(middle - k, power * static_cast<T>(kConstants[k]));
      }
    }
  }
};

struct FourierBasis {
  template <typename T, typename Row>
  KAN_MD_INLINE static void visit(const KanLayer<T> &layer, const GridPlace<T> &place, Row row)
  {
    const int64_t num_sines = layer.num_basis / 2;
    Vec<T> sine1, cosine1;
    sine_and_cosine<T>(place.inside, sine1, cosine1);
    Vec<T> sine = sine1, cosine = cosine1;
    for (int64_t k = 0; k < num_sines; ++k) {
      const T frequency = T(6.283185307179586477) * static_cast<T>(k + 1);
      row(k, sine, frequency * cosine, -frequency * frequency * sine);
      row(num_sines + k, cosine, -frequency * sine, -frequency * frequency * cosine);
      const Vec<T> next = sine * cosine1 + cosine * sine1;
      cosine = cosine * cosine1 - sine * sine1;
      sine = next;
    }
  }
};

template <int Order> struct SplineBasis {
  template <typename T, typename Row>
  KAN_MD_INLINE static void visit(const KanLayer<T> &layer, const GridPlace<T> &place, Row row)
  {
    const Vec<T> u = place.inside + place.zero;
    const Vec<T> cell = cell_of<T>(u, static_cast<T>(layer.steps - 1)), t = u - cell;
    Vec<T> values[Order + 1], slopes[Order + 1], curves[Order + 1];
    for (int j = 0; j <= Order; ++j) {
      const T *c = layer.pieces + j * (Order + 1);
      values[j] = fill(c[Order]);
      slopes[j] = curves[j] = fill<T>(0);
      for (int p = Order - 1; p >= 0; --p) {
        curves[j] = curves[j] * t + 2 * slopes[j];
        slopes[j] = slopes[j] * t + values[j];
        values[j] = values[j] * t + c[p];
      }
    }
    for (int64_t m = 0; m < layer.num_basis; ++m) {
      const Vec<T> piece = static_cast<T>(m) - cell;    // of function m in this cell
      Vec<T> value{}, slope{}, curve{};
      for (int j = 0; j <= Order; ++j) {
        value = piece == static_cast<T>(j) ? values[j] : value;
        slope = piece == static_cast<T>(j) ? slopes[j] : slope;
        curve = piece == static_cast<T>(j) ? curves[j] : curve;
      }
      row(m, value, slope, curve);
    }
  }
};

// Outside its grid a function goes on along its tangent; at x = 0 it is zero, bit for bit.
template <typename T, typename Functions>
void fill_rows(const KanLayer<T> &layer, int64_t n, const T *x, int64_t x_stride, T *rows)
{
  const int64_t size = layer.num_rows() * layer.in;
  for (int64_t i = 0; i < layer.in; i += Simd<T>::kLanes)
    for (int64_t e = 0; e < n; ++e) {
      const GridPlace<T> place(load(x + e * x_stride + i), layer, i);
      T *out = rows + e * size + i;
      Functions::visit(layer, place,
                       [&](int64_t m, Vec<T> value, Vec<T> slope, Vec<T>)
                           __attribute__((always_inline)) {
                             value -= load(layer.at_zero + m * layer.in + i);
                             value = place.s == 0 ? fill<T>(0) : value;
                             store(out + m * layer.in, value + place.beyond * slope);
                           });
      if (!layer.silu) continue;
      const Vec<T> z = place.s * load(layer.grid + 2 * layer.in + i);
      store(out + layer.num_basis * layer.in, z / (1 + vector_exp<T>(-z)));
    }
}

// dE/dx from dE/drows; x_grad may be x.
template <typename T, typename Functions>
void reverse_rows(const KanLayer<T> &layer, int64_t n, const T *x, int64_t x_stride,
                  const T *rows_grad, T *x_grad, int64_t grad_stride)
{
  const int64_t size = layer.num_rows() * layer.in;
  for (int64_t i = 0; i < layer.in; i += Simd<T>::kLanes)
    for (int64_t e = 0; e < n; ++e) {
      const GridPlace<T> place(load(x + e * x_stride + i), layer, i);
      const T *grad = rows_grad + e * size + i;
      Vec<T> total{};
      Functions::visit(layer, place,
                       [&](int64_t m, Vec<T>, Vec<T> slope, Vec<T>) __attribute__((always_inline)) {
                         total += slope * load(grad + m * layer.in);
                       });
      if (layer.silu) {
        const Vec<T> step = load(layer.grid + 2 * layer.in + i), z = place.s * step;
        const Vec<T> sigmoid = 1 / (1 + vector_exp<T>(-z));
        total += step * sigmoid * (1 + z * (1 - sigmoid)) * load(grad + layer.num_basis * layer.in);
      }
      store(x_grad + e * grad_stride + i, total * load(layer.grid + i));
    }
}

// call<Functions>() for a layer's basis.
template <typename T, typename Call> void with_basis(const KanLayer<T> &layer, Call call)
{
  if (layer.basis == Basis::kGaussian) return call.template operator()<GaussianBasis>();
  if (layer.basis == Basis::kFourier) return call.template operator()<FourierBasis>();
  switch (layer.order) {
    case 1:
      return call.template operator()<SplineBasis<1>>();
    case 2:
      return call.template operator()<SplineBasis<2>>();
    case 3:
      return call.template operator()<SplineBasis<3>>();
    case 4:
      return call.template operator()<SplineBasis<4>>();
    default:
      return call.template operator()<SplineBasis<5>>();
  }
}

}    // namespace detail

// y[n, out] += the layer of x[n, in]; rows: room for [min(n, kEdgesTogether), num_rows * in].
template <typename T>
void add_kan(const KanLayer<T> &layer, int64_t n, const T *x, int64_t x_stride, T *rows, T *y,
             int64_t y_stride)
{
  const Product<T> &p = layer.product;
  for (int64_t begin = 0; begin < n; begin += kEdgesTogether) {
    const int64_t count = std::min(kEdgesTogether, n - begin);
    detail::with_basis(layer, [&]<typename Functions>() {
      detail::fill_rows<T, Functions>(layer, count, x + begin * x_stride, x_stride, rows);
    });
    multiply(count, p.in, p.out, rows, p.in, p.weight, p.out, y + begin * y_stride, y_stride, true);
  }
}

// x_grad[n, in] = dE/dx from y_grad = dE/dy; may be x.
template <typename T>
void reverse_kan(const KanLayer<T> &layer, int64_t n, const T *x, int64_t x_stride, T *rows,
                 const T *y_grad, int64_t y_stride, T *x_grad, int64_t grad_stride)
{
  const Product<T> &p = layer.product;
  for (int64_t begin = 0; begin < n; begin += kEdgesTogether) {
    const int64_t count = std::min(kEdgesTogether, n - begin);
    multiply(count, p.out, p.in, y_grad + begin * y_stride, y_stride, p.transposed, p.in, rows,
             p.in, false);
    detail::with_basis(layer, [&]<typename Functions>() {
      detail::reverse_rows<T, Functions>(layer, count, x + begin * x_stride, x_stride, rows,
                                         x_grad + begin * grad_stride, grad_stride);
    });
  }
}

}    // namespace kan_md::ops

#endif
