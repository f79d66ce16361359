// Collapsed KAN layer: sums of piecewise cubics, value and slope in one pass.
//
// The first and last piece continue to infinity, so that the index is a clamp and a function with
// linear tails stores them as pieces like any other.

#include "ops.h"
#include "simd.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <omp.h>

#include <algorithm>
#include <cmath>

namespace kan_md::ops {
namespace {

// Piece that holds s steps from x = 0. NaN falls to the first piece and stays NaN in the place.
template <typename T> int32_t piece_of(T s, int32_t origin, int32_t last)
{
  const T first_step = static_cast<T>(-origin), last_step = static_cast<T>(last - origin);
  return static_cast<int32_t>(std::floor(std::max(first_step, std::min(s, last_step)))) + origin;
}

// Piece and place inside it of kLanes inputs: x = (piece - origin + u) / inverse_step. Counting from
// x = 0 keeps the relative precision of small arguments, and phi(0) is a stored number.
template <typename T> struct Places {
  int32_t piece[Simd<T>::kLanes];
  Vec<T> u;
  Places(const T *x, const T *inverse_step, int32_t origin, int32_t last)
  {
    const Vec<T> s = load(x) * load(inverse_step);
    for (int i = 0; i < Simd<T>::kLanes; ++i) piece[i] = piece_of(s[i], origin, last);
    for (int i = 0; i < Simd<T>::kLanes; ++i) u[i] = s[i] - static_cast<T>(piece[i] - origin);
  }
};

// One row with a single output: lanes run over inputs. pieces: [in, num_pieces, 4].
template <typename T>
T single_output_row(const T *x, const T *pieces, const T *inverse_step, int32_t origin, int64_t in,
                    int64_t num_pieces, T *slope)
{
  constexpr int kLanes = Simd<T>::kLanes;
  const int32_t last = static_cast<int32_t>(num_pieces - 1);
  Vec<T> total{};
  T rest = 0;
  int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    const Places<T> place(x + i, inverse_step + i, origin, last);
    Vec<T> c0, c1, c2, c3;
    for (int k = 0; k < kLanes; ++k) {
      const T *c = pieces + ((i + k) * num_pieces + place.piece[k]) * 4;
      c0[k] = c[0];
      c1[k] = c[1];
      c2[k] = c[2];
      c3[k] = c[3];
    }
    total += c0 + place.u * (c1 + place.u * (c2 + place.u * c3));
    store(slope + i, load(inverse_step + i) * (c1 + place.u * (2 * c2 + place.u * (3 * c3))));
  }
  for (; i < in; ++i) {
    const T s = x[i] * inverse_step[i];
    const int32_t piece = piece_of(s, origin, last);
    const T u = s - static_cast<T>(piece - origin);
    const T *c = pieces + (i * num_pieces + piece) * 4;
    rest += c[0] + u * (c[1] + u * (c[2] + u * c[3]));
    slope[i] = inverse_step[i] * (c[1] + u * (2 * c[2] + u * 3 * c[3]));
  }
  return sum<T>(total) + rest;
}

// pieces: [in, num_pieces, out, 4]; slope: [in, out]; y: [out].
template <typename T>
void many_outputs_row(const T *x, const T *pieces, const T *inverse_step, int32_t origin,
                      int64_t in, int64_t num_pieces, int64_t out, T *y, T *slope)
{
  const int32_t last = static_cast<int32_t>(num_pieces - 1);
  std::fill_n(y, out, T(0));
  for (int64_t i = 0; i < in; ++i) {
    const T s = x[i] * inverse_step[i];
    const int32_t piece = piece_of(s, origin, last);
    const T u = s - static_cast<T>(piece - origin);
    const T *c = pieces + (i * num_pieces + piece) * out * 4;
    for (int64_t o = 0; o < out; ++o, c += 4) {
      y[o] += c[0] + u * (c[1] + u * (c[2] + u * c[3]));
      slope[i * out + o] = inverse_step[i] * (c[1] + u * (2 * c[2] + u * 3 * c[3]));
    }
  }
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> evaluate(const at::Tensor &x, const at::Tensor &coefficients,
                                            const at::Tensor &inverse_step, int32_t origin)
{
  const int64_t rows = x.size(0), in = x.size(1);
  const int64_t num_pieces = coefficients.size(1), out = coefficients.size(2);
  at::Tensor y = at::empty({rows, out}, x.options());
  at::Tensor slope = at::empty({rows, in, out}, x.options());
  const T *x_data = x.const_data_ptr<T>(), *pieces = coefficients.const_data_ptr<T>();
  const T *inverse = inverse_step.const_data_ptr<T>();
  T *y_data = y.mutable_data_ptr<T>(), *slope_data = slope.mutable_data_ptr<T>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t n = 0; n < rows; ++n) {
    if (out == 1)
      y_data[n] = single_output_row(x_data + n * in, pieces, inverse, origin, in, num_pieces,
                                    slope_data + n * in);
    else
      many_outputs_row(x_data + n * in, pieces, inverse, origin, in, num_pieces, out,
                       y_data + n * out, slope_data + n * in * out);
  }
  return {y, slope};
}

}    // namespace

std::tuple<at::Tensor, at::Tensor> piecewise_cubic(const at::Tensor &x,
                                                   const at::Tensor &coefficients,
                                                   const at::Tensor &inverse_step, int64_t origin)
{
  TORCH_CHECK(x.dim() == 2 && coefficients.dim() == 4 && coefficients.size(0) == x.size(1) &&
                  coefficients.size(3) == 4 && coefficients.size(1) >= 1,
              "kan_md::piecewise_cubic: x [n, in] and coefficients [in, pieces, out, 4], got ",
              x.sizes(), " and ", coefficients.sizes());
  TORCH_CHECK(inverse_step.numel() == x.size(1), "kan_md::piecewise_cubic: one step per input");
  TORCH_CHECK(origin >= 0 && origin < coefficients.size(1),
              "kan_md::piecewise_cubic: origin must be a piece, got ", origin);
  for (const at::Tensor &t : {coefficients, inverse_step})
    TORCH_CHECK(t.scalar_type() == x.scalar_type(),
                "kan_md::piecewise_cubic: all tensors must share one dtype");
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
              "kan_md::piecewise_cubic: float32 or float64, got ", x.scalar_type());
  const at::Tensor x_ = x.contiguous(), c = coefficients.contiguous();
  const at::Tensor inverse = inverse_step.contiguous();
  const auto first = static_cast<int32_t>(origin);
  return x.scalar_type() == at::kFloat ? evaluate<float>(x_, c, inverse, first)
                                       : evaluate<double>(x_, c, inverse, first);
}

}    // namespace kan_md::ops
