// Equivariant convolutions for training: messages of neighbours summed on atoms, and the derivatives
// of that by each other. kan_md/forms/convolutions.py says what they are.

#include "ops.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace kan_md::ops {
namespace {

constexpr int64_t kPathNumbers = 7;      // of a row of paths
constexpr int64_t kTripleNumbers = 3;    // of a row of triples

struct Path {
  int64_t source, harmonics, target, weights, channels, begin, end;
};

template <typename T> struct Table {
  const int64_t *paths, *triples;
  const T *values;
  int64_t num_paths;
  Path path(int64_t number) const
  {
    const int64_t *p = paths + number * kPathNumbers;
    return {p[0], p[1], p[2], p[3], p[4], p[5], p[6]};
  }
};

template <typename T>
Table<T> table_of(const at::Tensor &paths, const at::Tensor &triples, const at::Tensor &values)
{
  return {paths.const_data_ptr<int64_t>(), triples.const_data_ptr<int64_t>(),
          values.const_data_ptr<T>(), paths.size(0)};
}

void check(const char *name, const at::Tensor &like, at::TensorList others, at::TensorList indices)
{
  for (const at::Tensor &other : others)
    TORCH_CHECK(other.scalar_type() == like.scalar_type() && other.is_contiguous(),
                "kan_md::", name, ": contiguous tensors of one dtype, got ", other.scalar_type(),
                " ", other.sizes(), " beside ", like.scalar_type());
  for (const at::Tensor &index : indices)
    TORCH_CHECK(index.scalar_type() == at::kLong && index.is_contiguous(), "kan_md::", name,
                ": indices are contiguous int64, got ", index.scalar_type(), " ", index.sizes());
}

// w[u] x[j, u] for all components j that a path reads.
template <typename T>
void weigh(const Path &p, const T *w, const T *x, int64_t components, std::vector<T> &product)
{
  product.resize(components * p.channels);
  for (int64_t j = 0; j < components; ++j) {
    T *row = product.data() + j * p.channels;
#pragma omp simd
    for (int64_t u = 0; u < p.channels; ++u)
      row[u] = w[p.weights + u] * x[p.source + j * p.channels + u];
  }
}

template <typename T> int64_t components_of(const Table<T> &table, const Path &p)
{
  int64_t most = 0;
  for (int64_t t = p.begin; t < p.end; ++t)
    most = std::max(most, table.triples[t * kTripleNumbers + 1] + 1);
  return most;
}

template <typename T> void add_scaled(T *sum, T factor, const T *row, int64_t count)
{
#pragma omp simd
  for (int64_t u = 0; u < count; ++u) sum[u] += factor * row[u];
}

template <typename T> void add_product(T *sum, T factor, const T *a, const T *b, int64_t count)
{
#pragma omp simd
  for (int64_t u = 0; u < count; ++u) sum[u] += factor * a[u] * b[u];
}

template <typename T> T dot(const T *a, const T *b, int64_t count)
{
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t u = 0; u < count; ++u) sum += a[u] * b[u];
  return sum;
}

}    // namespace

at::Tensor message_sums(const at::Tensor &weights, const at::Tensor &harmonics,
                        const at::Tensor &features, const at::Tensor &other,
                        const at::Tensor &order, const at::Tensor &first, const at::Tensor &paths,
                        const at::Tensor &triples, const at::Tensor &values, int64_t width)
{
  check("message_sums", weights, {weights, harmonics, features, values},
        {other, order, first, paths, triples});
  const int64_t num_atoms = first.numel() - 1;
  const at::Tensor result = at::zeros({num_atoms, width}, weights.options());
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "message_sums", [&] {
    const auto table = table_of<scalar_t>(paths, triples, values);
    const scalar_t *w = weights.const_data_ptr<scalar_t>();
    const scalar_t *y = harmonics.const_data_ptr<scalar_t>();
    const scalar_t *x = features.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    const int64_t *from = other.const_data_ptr<int64_t>(), *edges = order.const_data_ptr<int64_t>();
    const int64_t *begins = first.const_data_ptr<int64_t>();
    in_parallel_parts(at::get_num_threads(), num_atoms, [&](int64_t begin, int64_t end) {
      std::vector<scalar_t> product;
      for (int64_t atom = begin; atom < end; ++atom)
        for (int64_t k = begins[atom]; k < begins[atom + 1]; ++k) {
          const int64_t e = edges[k];
          for (int64_t number = 0; number < table.num_paths; ++number) {
            const Path p = table.path(number);
            weigh(p, w + e * weights.size(1), x + from[e] * features.size(1),
                  components_of(table, p), product);
            for (int64_t t = p.begin; t < p.end; ++t) {
              const int64_t *triple = table.triples + t * kTripleNumbers;
              const scalar_t factor =
                  table.values[t] * y[e * harmonics.size(1) + p.harmonics + triple[0]];
              add_scaled(out + atom * width + p.target + triple[2] * p.channels, factor,
                         product.data() + triple[1] * p.channels, p.channels);
            }
          }
        }
    });
  });
  return result;
}

at::Tensor message_weights(const at::Tensor &harmonics, const at::Tensor &features,
                           const at::Tensor &field, const at::Tensor &source,
                           const at::Tensor &target, const at::Tensor &paths,
                           const at::Tensor &triples, const at::Tensor &values, int64_t width)
{
  check("message_weights", harmonics, {harmonics, features, field, values},
        {source, target, paths, triples});
  const at::Tensor result = at::zeros({harmonics.size(0), width}, harmonics.options());
  AT_DISPATCH_FLOATING_TYPES(harmonics.scalar_type(), "message_weights", [&] {
    const auto table = table_of<scalar_t>(paths, triples, values);
    const scalar_t *y = harmonics.const_data_ptr<scalar_t>();
    const scalar_t *x = features.const_data_ptr<scalar_t>();
    const scalar_t *a = field.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    const int64_t *from = source.const_data_ptr<int64_t>(), *to = target.const_data_ptr<int64_t>();
    in_parallel_parts(at::get_num_threads(), harmonics.size(0), [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; ++e)
        for (int64_t number = 0; number < table.num_paths; ++number) {
          const Path p = table.path(number);
          for (int64_t t = p.begin; t < p.end; ++t) {
            const int64_t *triple = table.triples + t * kTripleNumbers;
            const scalar_t factor =
                table.values[t] * y[e * harmonics.size(1) + p.harmonics + triple[0]];
            add_product(out + e * width + p.weights, factor,
                        x + from[e] * features.size(1) + p.source + triple[1] * p.channels,
                        a + to[e] * field.size(1) + p.target + triple[2] * p.channels, p.channels);
          }
        }
    });
  });
  return result;
}

at::Tensor message_harmonics(const at::Tensor &weights, const at::Tensor &features,
                             const at::Tensor &field, const at::Tensor &source,
                             const at::Tensor &target, const at::Tensor &paths,
                             const at::Tensor &triples, const at::Tensor &values, int64_t width)
{
  check("message_harmonics", weights, {weights, features, field, values},
        {source, target, paths, triples});
  const at::Tensor result = at::zeros({weights.size(0), width}, weights.options());
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "message_harmonics", [&] {
    const auto table = table_of<scalar_t>(paths, triples, values);
    const scalar_t *w = weights.const_data_ptr<scalar_t>();
    const scalar_t *x = features.const_data_ptr<scalar_t>();
    const scalar_t *a = field.const_data_ptr<scalar_t>();
    scalar_t *out = result.mutable_data_ptr<scalar_t>();
    const int64_t *from = source.const_data_ptr<int64_t>(), *to = target.const_data_ptr<int64_t>();
    in_parallel_parts(at::get_num_threads(), weights.size(0), [&](int64_t begin, int64_t end) {
      std::vector<scalar_t> product;
      for (int64_t e = begin; e < end; ++e)
        for (int64_t number = 0; number < table.num_paths; ++number) {
          const Path p = table.path(number);
          weigh(p, w + e * weights.size(1), x + from[e] * features.size(1), components_of(table, p),
                product);
          for (int64_t t = p.begin; t < p.end; ++t) {
            const int64_t *triple = table.triples + t * kTripleNumbers;
            out[e * width + p.harmonics + triple[0]] +=
                table.values[t] * dot(product.data() + triple[1] * p.channels,
                                      a + to[e] * field.size(1) + p.target + triple[2] * p.channels,
                                      p.channels);
          }
        }
    });
  });
  return result;
}

}    // namespace kan_md::ops
