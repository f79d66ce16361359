// Collapsed KAN layer: sums of piecewise cubics, value and slope in one pass.
//
// The first and last piece continue to infinity, so that the index is a clamp and a function with
// linear tails stores them as pieces like any other.

#include "ops.h"
#include "piecewise.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <omp.h>

#include <algorithm>
#include <cmath>

namespace kan_md::ops {
namespace {

// pieces: [in, num_pieces, out, 4]; slope: [in, out]; y: [out].
template <typename T>
void many_outputs_row(const T *x, const T *pieces, const T *inverse_step, int32_t origin,
                      int64_t in, int64_t num_pieces, int64_t out, T *y, T *slope)
{
  const T first = static_cast<T>(-origin), last = static_cast<T>(num_pieces - 1 - origin);
  std::fill_n(y, out, T(0));
  for (int64_t i = 0; i < in; ++i) {
    const T s = x[i] * inverse_step[i];
    const T cell = std::floor(std::max(first, std::min(s, last)));
    const T u = s - cell;
    const T *c = pieces + (i * num_pieces + static_cast<int64_t>(cell) + origin) * out * 4;
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
      y_data[n] = piecewise_row(in, x_data + n * in, pieces, inverse, origin,
                                static_cast<int32_t>(num_pieces), slope_data + n * in);
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
