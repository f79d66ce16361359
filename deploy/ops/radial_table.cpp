// Radial functions of r per pair of types from quintic Hermite tables, vectorised over functions.

#include "radial_spline.h"
#include "simd.h"
#include "ops.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <omp.h>

namespace kan_md::ops {
namespace {


void check(const at::Tensor &lengths, const at::Tensor &pairs, const at::Tensor &table,
           const at::Tensor &cutoffs)
{
  TORCH_CHECK(table.dim() == 4 && table.size(1) >= 2 && table.size(2) == kKnotValues,
              "kan_md::radial_table: table must be [num_pairs, num_knots, 3, num_functions], got ",
              table.sizes());
  TORCH_CHECK(lengths.dim() == 1 && pairs.numel() == lengths.numel(),
              "kan_md::radial_table: one pair per length, got ", pairs.numel(), " for ",
              lengths.numel());
  TORCH_CHECK(cutoffs.scalar_type() == at::kDouble && cutoffs.numel() == table.size(0),
              "kan_md::radial_table: one float64 cutoff per pair");
  const int64_t *pair = pairs.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < pairs.numel(); ++e)
    TORCH_CHECK(pair[e] >= 0 && pair[e] < table.size(0), "kan_md::radial_table: pair ", pair[e],
                ", there are ", table.size(0));
}

template <typename T, typename R>
void evaluate(const at::Tensor &lengths, const at::Tensor &pairs, const at::Tensor &table,
              const at::Tensor &cutoffs, at::Tensor &out)
{
  const int64_t num_knots = table.size(1), num_functions = table.size(3);
  const int64_t row = kKnotValues * num_functions;
  const R *r = lengths.const_data_ptr<R>();
  const T *knots = table.const_data_ptr<T>();
  const double *cutoff = cutoffs.const_data_ptr<double>();
  const int64_t *pair = pairs.const_data_ptr<int64_t>();
  T *result = out.mutable_data_ptr<T>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t e = 0; e < lengths.numel(); ++e) {
    T *y = result + e * num_functions;
    SplinePlace place;
    if (!spline_place(r[e], cutoff[pair[e]], num_knots, place)) {
      std::fill_n(y, num_functions, T(0));
      continue;
    }
    T w[kSplineWeights];
    spline_weights(static_cast<T>(place.t), w);
    const T *low = knots + (pair[e] * num_knots + place.knot) * row;
#pragma omp simd
    for (int64_t k = 0; k < num_functions; ++k) {
      T value = 0;
      for (int s = 0; s < kSplineWeights; ++s) value += w[s] * low[s * num_functions + k];
      y[k] = value;
    }
  }
}

template <typename T, typename R>
void reverse(const at::Tensor &out_grad, const at::Tensor &lengths, const at::Tensor &pairs,
             const at::Tensor &table, const at::Tensor &cutoffs, at::Tensor &grad)
{
  const int64_t num_knots = table.size(1), num_functions = table.size(3);
  const int64_t row = kKnotValues * num_functions;
  const R *r = lengths.const_data_ptr<R>();
  const T *knots = table.const_data_ptr<T>(), *up = out_grad.const_data_ptr<T>();
  const double *cutoff = cutoffs.const_data_ptr<double>();
  const int64_t *pair = pairs.const_data_ptr<int64_t>();
  R *result = grad.mutable_data_ptr<R>();
#pragma omp parallel for schedule(static) num_threads(at::get_num_threads())
  for (int64_t e = 0; e < lengths.numel(); ++e) {
    SplinePlace place;
    result[e] = 0;
    if (!spline_place(r[e], cutoff[pair[e]], num_knots, place)) continue;
    T w[kSplineWeights];
    spline_slopes(static_cast<T>(place.t), static_cast<T>(place.inverse_step), w);
    const T *low = knots + (pair[e] * num_knots + place.knot) * row;
    const T *g = up + e * num_functions;
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < num_functions; ++k) {
      T slope = 0;
      for (int s = 0; s < kSplineWeights; ++s) slope += w[s] * low[s * num_functions + k];
      total += g[k] * slope;
    }
    result[e] = total;
  }
}

template <typename Call> void dispatch(at::ScalarType value, at::ScalarType length, const Call &call)
{
  TORCH_CHECK((value == at::kFloat || value == at::kDouble) &&
                  (length == at::kFloat || length == at::kDouble),
              "kan_md::radial_table: float32 or float64, got ", value, " and ", length);
  if (value == at::kFloat)
    length == at::kFloat ? call(float{}, float{}) : call(float{}, double{});
  else
    length == at::kFloat ? call(double{}, float{}) : call(double{}, double{});
}

}    // namespace

at::Tensor radial_table(const at::Tensor &lengths, const at::Tensor &pairs,
                        const at::Tensor &table, const at::Tensor &cutoffs)
{
  check(lengths, pairs, table, cutoffs);
  const at::Tensor r = lengths.contiguous(), p = pairs.contiguous(), t = table.contiguous();
  at::Tensor out = at::empty({r.numel(), table.size(3)}, table.options());
  dispatch(table.scalar_type(), lengths.scalar_type(), [&](auto value, auto length) {
    evaluate<decltype(value), decltype(length)>(r, p, t, cutoffs, out);
  });
  return out;
}

at::Tensor radial_table_backward(const at::Tensor &out_grad, const at::Tensor &lengths,
                                 const at::Tensor &pairs, const at::Tensor &table,
                                 const at::Tensor &cutoffs)
{
  check(lengths, pairs, table, cutoffs);
  const at::Tensor r = lengths.contiguous(), p = pairs.contiguous(), t = table.contiguous();
  const at::Tensor g = out_grad.contiguous();
  at::Tensor grad = at::empty_like(r);
  dispatch(table.scalar_type(), lengths.scalar_type(), [&](auto value, auto length) {
    reverse<decltype(value), decltype(length)>(g, r, p, t, cutoffs, grad);
  });
  return grad;
}

}    // namespace kan_md::ops
