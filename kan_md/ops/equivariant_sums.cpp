// Equivariant convolutions for training: messages summed on atoms, what a field on these gives on the
// edges, and the derivatives of both along a direction. kan_md/forms/convolutions.py says what they are.

#include "ops.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <type_traits>
#include <vector>

namespace kan_md::ops {
namespace {

constexpr int64_t kPathNumbers = 7;    // of a row of paths
constexpr int kMostComponents = 7;     // of a block on either atom: degree 3

struct Path {
  int64_t source, target, weights, channels, matrices;
  int rows, columns;    // components at the source and at the target
};

std::vector<Path> paths_of(const at::Tensor &paths)
{
  std::vector<Path> result;
  const int64_t *p = paths.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < paths.size(0); ++n, p += kPathNumbers) {
    for (const int64_t size : {p[5], p[6]})
      TORCH_CHECK(size % 2 == 1 && size <= kMostComponents, "kan_md: blocks of 1, 3, 5 or ",
                  kMostComponents, " components, got ", size);
    result.push_back(
        {p[0], p[1], p[2], p[3], p[4], static_cast<int>(p[5]), static_cast<int>(p[6])});
  }
  return result;
}

// Rows of a matrix that may be missing.
template <typename T> struct Rows {
  const T *data = nullptr;
  int64_t width = 0;
  Rows() = default;
  explicit Rows(const at::Tensor &t) : data(t.const_data_ptr<T>()), width(t.size(1)) {}
  explicit Rows(const std::optional<at::Tensor> &t)
  {
    if (t) *this = Rows(*t);
  }
  const T *operator[](int64_t row) const { return data + row * width; }
};

// Weights, matrices and features with a direction of each; of the features it may be missing.
template <typename T> struct Given {
  Rows<T> weights, matrices, features, along_weights, along_matrices, along_features;
  int64_t num_pairs;
  // An edge and the one that is turned round share weights.
  int64_t pair(int64_t edge) const { return edge < num_pairs ? edge : edge - num_pairs; }
};

enum class Along { kNothing, kWeights, kAll };    // what has a direction, weights with matrices

template <typename V, typename T> V load_as(const T *p)
{
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename V, typename T> void store_from(T *p, V v)
{
  std::memcpy(p, &v, sizeof(v));
}

// Calls body with a value of the type of a vector for as many channels as fill one, then of a number.
template <typename T, typename Body> void for_channels(int64_t channels, const Body &body)
{
  int64_t u = 0;
  for (; u + Simd<T>::kLanes <= channels; u += Simd<T>::kLanes) body(Vec<T>{}, u);
  for (; u < channels; ++u) body(T(0), u);
}

// Calls body(rows, columns) with the numbers of components as constants.
template <typename Body> void with_sizes(int rows, int columns, const Body &body)
{
  const auto inner = [&](auto r) {
    switch (columns) {
      case 1:
        return body(r, std::integral_constant<int, 1>());
      case 3:
        return body(r, std::integral_constant<int, 3>());
      case 5:
        return body(r, std::integral_constant<int, 5>());
      default:
        return body(r, std::integral_constant<int, 7>());
    }
  };
  switch (rows) {
    case 1:
      return inner(std::integral_constant<int, 1>());
    case 3:
      return inner(std::integral_constant<int, 3>());
    case 5:
      return inner(std::integral_constant<int, 5>());
    default:
      return inner(std::integral_constant<int, 7>());
  }
}

// The matrix of a path, or its transpose.
template <bool Transposed, int In, int Out, typename T> T entry(const T *m, int in, int out)
{
  return Transposed ? m[out * In + in] : m[in * Out + out];
}

// One path of one atom, some channels: the sum over its edges stays in registers.
template <typename V, typename T, int In, int Out, bool Transposed, Along along>
void sum_edges(const Given<T> &given, const Path &path, const int64_t *edges, int64_t count,
               const int64_t *other, int64_t u, T *out)
{
  const int64_t from = (Transposed ? path.target : path.source) + u;
  V sums[Out] = {};
  for (int64_t k = 0; k < count; ++k) {
    const int64_t e = edges[k], pair = given.pair(e);
    const T *m = given.matrices[e] + path.matrices, *x = given.features[other[e]] + from;
    const V w = load_as<V>(given.weights[pair] + path.weights + u);
    V values[In], sent[In];
    for (int i = 0; i < In; ++i) {
      values[i] = load_as<V>(x + i * path.channels);
      sent[i] = w * values[i];
    }
    if constexpr (along != Along::kNothing) {
      const T *dm = given.along_matrices[e] + path.matrices;
      const V dw = load_as<V>(given.along_weights[pair] + path.weights + u);
      for (int i = 0; i < In; ++i) {
        for (int o = 0; o < Out; ++o) sums[o] += entry<Transposed, In, Out>(dm, i, o) * sent[i];
        sent[i] = dw * values[i];
      }
    }
    if constexpr (along == Along::kAll) {
      const T *dx = given.along_features[other[e]] + from;
      for (int i = 0; i < In; ++i) sent[i] += w * load_as<V>(dx + i * path.channels);
    }
    for (int i = 0; i < In; ++i)
      for (int o = 0; o < Out; ++o) sums[o] += entry<Transposed, In, Out>(m, i, o) * sent[i];
  }
  for (int o = 0; o < Out; ++o)
    store_from(out + o * path.channels, load_as<V>(out + o * path.channels) + sums[o]);
}

// One path of one edge: adds to the gradients by its weights and, in matrix, by its matrix.
template <typename V, typename T, int In, int Out, bool along>
void differentiate(const Given<T> &given, const Rows<T> &field, const Path &path, int64_t e,
                   int64_t source, int64_t target, int64_t u, T *weights, V *matrix)
{
  const int64_t pair = given.pair(e);
  const T *m = given.matrices[e] + path.matrices;
  const T *x = given.features[source] + path.source + u;
  const T *g = field[target] + path.target + u;
  const V w = load_as<V>(given.weights[pair] + path.weights + u);
  V values[In], up[Out], sum = load_as<V>(weights);
  for (int i = 0; i < In; ++i) values[i] = load_as<V>(x + i * path.channels);
  for (int o = 0; o < Out; ++o) up[o] = load_as<V>(g + o * path.channels);
  if constexpr (along) {
    const T *dm = given.along_matrices[e] + path.matrices;
    const T *dx = given.along_features[source] + path.source + u;
    const V dw = load_as<V>(given.along_weights[pair] + path.weights + u);
    for (int i = 0; i < In; ++i) {
      V pulled = {}, along_pulled = {};
      for (int o = 0; o < Out; ++o) {
        pulled += m[i * Out + o] * up[o];
        along_pulled += dm[i * Out + o] * up[o];
      }
      const V along_value = load_as<V>(dx + i * path.channels);
      sum += along_pulled * values[i] + pulled * along_value;
      const V sent = dw * values[i] + w * along_value;
      for (int o = 0; o < Out; ++o) matrix[i * Out + o] += sent * up[o];
    }
  } else {
    for (int i = 0; i < In; ++i) {
      V pulled = {};
      for (int o = 0; o < Out; ++o) pulled += m[i * Out + o] * up[o];
      sum += pulled * values[i];
      const V sent = w * values[i];
      for (int o = 0; o < Out; ++o) matrix[i * Out + o] += sent * up[o];
    }
  }
  store_from(weights, sum);
}

// Both directions of a pair, one path.
template <typename T, int In, int Out, bool along>
void differentiate_pair(const Given<T> &given, const Rows<T> &field, const Path &path, int64_t pair,
                        int64_t num_edges, const int64_t *source, const int64_t *target, T *weights,
                        T *matrices, int64_t matrix_width)
{
  for (int64_t e = pair; e < num_edges; e += given.num_pairs) {
    Vec<T> wide[In * Out] = {};
    T narrow[In * Out] = {};
    for_channels<T>(path.channels, [&](auto kind, int64_t u) {
      using V = decltype(kind);
      V *matrix = nullptr;
      if constexpr (std::is_same_v<V, T>)
        matrix = narrow;
      else
        matrix = wide;
      differentiate<V, T, In, Out, along>(given, field, path, e, source[e], target[e], u,
                                          weights + path.weights + u, matrix);
    });
    T *row = matrices + e * matrix_width + path.matrices;
    for (int n = 0; n < In * Out; ++n) row[n] = sum<T>(wide[n]) + narrow[n];
  }
}

void check(const char *name, const at::Tensor &like, at::TensorList others, at::TensorList indices,
           int64_t num_edges, int64_t num_pairs)
{
  for (const at::Tensor &other : others)
    TORCH_CHECK(other.scalar_type() == like.scalar_type() && other.is_contiguous() &&
                    other.dim() == 2,
                "kan_md::", name, ": contiguous matrices of one dtype, got ", other.scalar_type(),
                " ", other.sizes(), " beside ", like.scalar_type());
  for (const at::Tensor &index : indices)
    TORCH_CHECK(index.scalar_type() == at::kLong && index.is_contiguous(), "kan_md::", name,
                ": indices are contiguous int64, got ", index.scalar_type(), " ", index.sizes());
  TORCH_CHECK(num_edges == num_pairs || num_edges == 2 * num_pairs, "kan_md::", name,
              ": as many edges as weights or twice as many, got ", num_edges, " and ", num_pairs);
}

void check_along(const char *name, const std::optional<at::Tensor> &along, const at::Tensor &like)
{
  TORCH_CHECK(!along || (along->sizes() == like.sizes() && along->is_contiguous() &&
                         along->scalar_type() == like.scalar_type()),
              "kan_md::", name, ": a direction like ", like.sizes(), ", got ",
              along ? along->sizes() : like.sizes());
}

template <typename T, bool Transposed, Along along>
void sum_messages(const Given<T> &given, const std::vector<Path> &paths, const at::Tensor &other,
                  const at::Tensor &order, const at::Tensor &first, const at::Tensor &result)
{
  const int64_t *from = other.const_data_ptr<int64_t>(), *edges = order.const_data_ptr<int64_t>();
  const int64_t *begins = first.const_data_ptr<int64_t>();
  T *out = result.mutable_data_ptr<T>();
  in_parallel_parts(at::get_num_threads(), result.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t atom = begin; atom < end; ++atom)
      for (const Path &path : paths)
        with_sizes(path.rows, path.columns, [&](auto rows, auto columns) {
          constexpr int kIn = Transposed ? columns() : rows(),
                        kOut = Transposed ? rows() : columns();
          T *own = out + atom * result.size(1) + (Transposed ? path.source : path.target);
          for_channels<T>(path.channels, [&](auto kind, int64_t u) {
            sum_edges<decltype(kind), T, kIn, kOut, Transposed, along>(
                given, path, edges + begins[atom], begins[atom + 1] - begins[atom], from, u,
                own + u);
          });
        });
  });
}

}    // namespace

at::Tensor message_sums(const at::Tensor &weights, const at::Tensor &matrices,
                        const at::Tensor &features, const std::optional<at::Tensor> &along_weights,
                        const std::optional<at::Tensor> &along_matrices,
                        const std::optional<at::Tensor> &along_features, const at::Tensor &other,
                        const at::Tensor &order, const at::Tensor &first, const at::Tensor &paths,
                        int64_t width, bool transposed)
{
  check("message_sums", weights, {weights, matrices, features}, {other, order, first, paths},
        matrices.size(0), weights.size(0));
  check_along("message_sums", along_weights, weights);
  check_along("message_sums", along_matrices, matrices);
  check_along("message_sums", along_features, features);
  TORCH_CHECK(along_weights.has_value() == along_matrices.has_value() &&
                  (along_weights || !along_features),
              "kan_md::message_sums: directions of weights and matrices, or of all, or of none");
  const at::Tensor result = at::zeros({first.numel() - 1, width}, weights.options());
  const std::vector<Path> all = paths_of(paths);
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "message_sums", [&] {
    using T = scalar_t;
    const Given<T> given{Rows<T>(weights),       Rows<T>(matrices),       Rows<T>(features),
                         Rows<T>(along_weights), Rows<T>(along_matrices), Rows<T>(along_features),
                         weights.size(0)};
    const auto run = [&](auto turned) {
      constexpr bool kTurned = turned();
      if (along_features)
        sum_messages<T, kTurned, Along::kAll>(given, all, other, order, first, result);
      else if (along_weights)
        sum_messages<T, kTurned, Along::kWeights>(given, all, other, order, first, result);
      else
        sum_messages<T, kTurned, Along::kNothing>(given, all, other, order, first, result);
    };
    transposed ? run(std::true_type()) : run(std::false_type());
  });
  return result;
}

std::tuple<at::Tensor, at::Tensor>
message_gradients(const at::Tensor &weights, const at::Tensor &matrices, const at::Tensor &features,
                  const at::Tensor &field, const std::optional<at::Tensor> &along_weights,
                  const std::optional<at::Tensor> &along_matrices,
                  const std::optional<at::Tensor> &along_features, const at::Tensor &source,
                  const at::Tensor &target, const at::Tensor &paths)
{
  check("message_gradients", weights, {weights, matrices, features, field}, {source, target, paths},
        matrices.size(0), weights.size(0));
  check_along("message_gradients", along_weights, weights);
  check_along("message_gradients", along_matrices, matrices);
  check_along("message_gradients", along_features, features);
  TORCH_CHECK(along_weights.has_value() == along_matrices.has_value() &&
                  along_weights.has_value() == along_features.has_value(),
              "kan_md::message_gradients: directions of all or of none");
  const at::Tensor by_weights = at::zeros_like(weights), by_matrices = at::empty_like(matrices);
  const std::vector<Path> all = paths_of(paths);
  AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "message_gradients", [&] {
    using T = scalar_t;
    const Given<T> given{Rows<T>(weights),       Rows<T>(matrices),       Rows<T>(features),
                         Rows<T>(along_weights), Rows<T>(along_matrices), Rows<T>(along_features),
                         weights.size(0)};
    const Rows<T> up(field);
    const int64_t *from = source.const_data_ptr<int64_t>(), *to = target.const_data_ptr<int64_t>();
    T *w = by_weights.mutable_data_ptr<T>(), *m = by_matrices.mutable_data_ptr<T>();
    const auto run = [&](auto has_direction) {
      in_parallel_parts(at::get_num_threads(), weights.size(0), [&](int64_t begin, int64_t end) {
        for (int64_t pair = begin; pair < end; ++pair)
          for (const Path &path : all)
            with_sizes(path.rows, path.columns, [&](auto rows, auto columns) {
              differentiate_pair<T, rows(), columns(), has_direction()>(
                  given, up, path, pair, matrices.size(0), from, to, w + pair * weights.size(1), m,
                  matrices.size(1));
            });
      });
    };
    along_weights ? run(std::true_type()) : run(std::false_type());
  });
  return {by_weights, by_matrices};
}

}    // namespace kan_md::ops
