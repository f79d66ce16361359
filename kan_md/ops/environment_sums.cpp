// Sums over the edges around each centre, for training. kan_md/forms/environment_sums.py says what they are; its
// plain torch kernels define what these compute, and its derivatives are made of these three.
//
// Edges come in the order of their centres, so that one thread has all edges of a centre and the bits
// of a sum do not depend on the number of threads.

#include "ops.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace kan_md::ops {
namespace {

struct Environment {
  const int64_t *order, *first;    // edges sorted by centre; where those of a centre begin
  const int64_t *degree;           // of each component
  int64_t centres, components, channels, degrees;
};

void check(const char *name, const at::Tensor &like, at::TensorList others, const at::Tensor &order,
           const at::Tensor &first, const at::Tensor &degree)
{
  for (const at::Tensor &other : others)
    TORCH_CHECK(other.scalar_type() == like.scalar_type() && other.is_contiguous(),
                "kan_md::", name, ": contiguous tensors of one dtype, got ", other.scalar_type(),
                " ", other.sizes(), " beside ", like.scalar_type());
  for (const at::Tensor &index : {order, first, degree})
    TORCH_CHECK(index.scalar_type() == at::kLong && index.dim() == 1 && index.is_contiguous(),
                "kan_md::", name, ": indices are int64 [n], got ", index.scalar_type(), " ",
                index.sizes());
  TORCH_CHECK(first.numel() >= 1, "kan_md::", name, ": first [centres + 1], got none");
}

Environment environment_of(const at::Tensor &order, const at::Tensor &first,
                           const at::Tensor &degree, int64_t channels, int64_t degrees)
{
  return {order.const_data_ptr<int64_t>(),
          first.const_data_ptr<int64_t>(),
          degree.const_data_ptr<int64_t>(),
          first.numel() - 1,
          degree.numel(),
          channels,
          degrees};
}

template <typename T> void add_scaled(T *sum, T factor, const T *row, int64_t count)
{
#pragma omp simd
  for (int64_t u = 0; u < count; ++u) sum[u] += factor * row[u];
}

template <typename T> T dot(const T *a, const T *b, int64_t count)
{
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t u = 0; u < count; ++u) sum += a[u] * b[u];
  return sum;
}

// body(centre, edge) for all edges of a centre, centre by centre.
template <typename Begin, typename Body>
void for_each_edge(const Environment &s, const Begin &begin_centre, const Body &body)
{
  in_parallel_parts(at::get_num_threads(), s.centres, [&](int64_t begin, int64_t end) {
    for (int64_t centre = begin; centre < end; ++centre) {
      begin_centre(centre);
      for (int64_t k = s.first[centre]; k < s.first[centre + 1]; ++k) body(centre, s.order[k]);
    }
  });
}

}    // namespace

at::Tensor environment_sum(const at::Tensor &weights, const at::Tensor &harmonics,
                           const at::Tensor &order, const at::Tensor &first,
                           const at::Tensor &degree, int64_t degrees)
{
  check("environment_sum", weights, {weights, harmonics}, order, first, degree);
  const Environment s = environment_of(order, first, degree, weights.size(1) / degrees, degrees);
  const at::Tensor result = at::empty({s.centres, s.components, s.channels}, weights.options());
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "environment_sum", [&] {
    const scalar_t *w = weights.const_data_ptr<scalar_t>();
    const scalar_t *y = harmonics.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    const int64_t size = s.components * s.channels;
    for_each_edge(
        s, [&](int64_t centre) { std::fill_n(out + centre * size, size, scalar_t(0)); },
        [&](int64_t centre, int64_t edge) {
          for (int64_t i = 0; i < s.components; ++i) {
            const scalar_t factor = y[edge * s.components + i];
            const scalar_t *row = w + (edge * s.degrees + s.degree[i]) * s.channels;
            scalar_t *sum = out + centre * size + i * s.channels;
            add_scaled(sum, factor, row, s.channels);
          }
        });
  });
  return result;
}

at::Tensor environment_projection(const at::Tensor &harmonics, const at::Tensor &field,
                                  const at::Tensor &order, const at::Tensor &first,
                                  const at::Tensor &degree, int64_t degrees)
{
  check("environment_projection", harmonics, {harmonics, field}, order, first, degree);
  const Environment s = environment_of(order, first, degree, field.size(2), degrees);
  const at::Tensor result =
      at::zeros({harmonics.size(0), s.degrees * s.channels}, harmonics.options());
  AT_DISPATCH_FLOATING_TYPES(harmonics.scalar_type(), "environment_projection", [&] {
    const scalar_t *y = harmonics.const_data_ptr<scalar_t>();
    const scalar_t *a = field.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    for_each_edge(
        s, [](int64_t) {},
        [&](int64_t centre, int64_t edge) {
          for (int64_t i = 0; i < s.components; ++i) {
            const scalar_t factor = y[edge * s.components + i];
            const scalar_t *row = a + (centre * s.components + i) * s.channels;
            scalar_t *sum = out + (edge * s.degrees + s.degree[i]) * s.channels;
            add_scaled(sum, factor, row, s.channels);
          }
        });
  });
  return result;
}

at::Tensor environment_harmonics(const at::Tensor &weights, const at::Tensor &field,
                                 const at::Tensor &order, const at::Tensor &first,
                                 const at::Tensor &degree, int64_t degrees)
{
  check("environment_harmonics", weights, {weights, field}, order, first, degree);
  const Environment s = environment_of(order, first, degree, field.size(2), degrees);
  const at::Tensor result = at::empty({weights.size(0), s.components}, weights.options());
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "environment_harmonics", [&] {
    const scalar_t *w = weights.const_data_ptr<scalar_t>();
    const scalar_t *a = field.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    for_each_edge(
        s, [](int64_t) {},
        [&](int64_t centre, int64_t edge) {
          for (int64_t i = 0; i < s.components; ++i) {
            const scalar_t *row = w + (edge * s.degrees + s.degree[i]) * s.channels;
            const scalar_t *other = a + (centre * s.components + i) * s.channels;
            out[edge * s.components + i] = dot(row, other, s.channels);
          }
        });
  });
  return result;
}

}    // namespace kan_md::ops
