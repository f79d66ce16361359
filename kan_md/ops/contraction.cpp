// MACE's symmetric contraction for training: a polynomial in an atom's features, its gradients by these
// and by the coefficients, and both along a direction of the features. The nest is that of
// polynomial_kernels.h. Channels of one type are one thread's, so that sums over atoms have one order.

#include "ops.h"
#include "polynomial_kernels.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <cstring>

namespace kan_md::ops {
namespace {

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

// a + eps b with eps² = 0: b is the derivative along a direction.
template <typename V> struct Dual {
  V value, along;
};

template <typename V> Dual<V> operator*(Dual<V> a, Dual<V> b)
{
  return {a.value * b.value, a.value * b.along + a.along * b.value};
}

template <typename V> Dual<V> operator*(Dual<V> a, V b)
{
  return {a.value * b, a.along * b};
}

template <typename V> void operator+=(Dual<V> &a, Dual<V> b)
{
  a.value += b.value;
  a.along += b.along;
}

// What is wanted of a number: itself, or its derivative.
template <typename V> V wanted(V a)
{
  return a;
}

template <typename V> V wanted(Dual<V> a)
{
  return a.along;
}

template <typename V> void set(V &number, V value)
{
  number = value;
}

template <typename V> void set(Dual<V> &number, V value)
{
  number = {value, V{}};
}

// Data of all atoms and channels: features and field [atoms, rows, channels], coefficients [types,
// terms, channels], what may be missing is null.
template <typename T> struct Data {
  const T *features, *along, *field, *coefficients;
  T *out, *by_features, *by_coefficients;
  const int32_t *program;
  int64_t channels, components, outputs, terms;
};

template <typename V, typename T>
void evaluate(const Data<T> &data, int64_t atom, int64_t type, int64_t u)
{
  const T *a = data.features + atom * data.components * data.channels + u;
  const T *p = data.coefficients + type * data.terms * data.channels + u;
  T *out = data.out + atom * data.outputs * data.channels + u;
  const int32_t *program = data.program;
  const auto component = [&] { return load_as<V>(a + *program++ * data.channels); };
  const auto coefficient = [&] {
    const V v = load_as<V>(p);
    p += data.channels;
    return v;
  };
  for (int64_t m = 0; m < data.outputs; ++m) {
    V total = {};
    for (int32_t n_i = *program++; n_i > 0; --n_i) {
      const V a_i = component();
      V inner_i = {};
      if (*program++) inner_i = coefficient();
      for (int32_t n_j = *program++; n_j > 0; --n_j) {
        const V a_j = component();
        V inner_ij = {};
        if (*program++) inner_ij = coefficient();
        for (int32_t n_l = *program++; n_l > 0; --n_l) {
          const V a_l = component();
          inner_ij += coefficient() * a_l;
        }
        inner_i += a_j * inner_ij;
      }
      total += a_i * inner_i;
    }
    store_from(out + m * data.channels, total);
  }
}

// N is V, or Dual<V>: then all results are derivatives, and those of the outputs are written, too.
template <typename N, typename V, typename T>
void differentiate(const Data<T> &data, int64_t atom, int64_t type, int64_t u)
{
  constexpr bool kDual = !std::is_same_v<N, V>;
  const int64_t stride = data.channels, row = atom * data.components * stride + u;
  const T *p = data.coefficients + type * data.terms * stride + u;
  T *by_p = data.by_coefficients + type * data.terms * stride + u;
  std::array<N, kMaxComponents> a;
  std::array<V, kMaxComponents> by_a;
  for (int64_t i = 0; i < data.components; ++i) {
    set(a[i], load_as<V>(data.features + row + i * stride));
    if constexpr (kDual) a[i].along = load_as<V>(data.along + row + i * stride);
    by_a[i] = V{};
  }
  const int32_t *program = data.program;
  // Takes the next coefficient, whose product with `factor` is in the sum.
  const auto take = [&](N factor) {
    const V v = load_as<V>(p);
    store_from(by_p, load_as<V>(by_p) + wanted(factor));
    p += stride;
    by_p += stride;
    return v;
  };
  for (int64_t m = 0; m < data.outputs; ++m) {
    const int64_t place = (atom * data.outputs + m) * stride + u;
    const V g = load_as<V>(data.field + place);
    N total;
    set(total, V{});
    for (int32_t n_i = *program++; n_i > 0; --n_i) {
      const int32_t i = *program++;
      const N up_i = a[i] * g;
      N inner_i;
      set(inner_i, V{});
      if (*program++) set(inner_i, take(up_i));
      for (int32_t n_j = *program++; n_j > 0; --n_j) {
        const int32_t j = *program++;
        const N up_ij = up_i * a[j];
        N inner_ij;
        set(inner_ij, V{});
        if (*program++) set(inner_ij, take(up_ij));
        for (int32_t n_l = *program++; n_l > 0; --n_l) {
          const int32_t l = *program++;
          const V c = take(up_ij * a[l]);
          inner_ij += a[l] * c;
          by_a[l] += wanted(up_ij * c);
        }
        inner_i += a[j] * inner_ij;
        by_a[j] += wanted(up_i * inner_ij);
      }
      by_a[i] += wanted(inner_i * g);
      if constexpr (kDual) total += a[i] * inner_i;
    }
    if constexpr (kDual) store_from(data.out + place, total.along);
  }
  for (int64_t i = 0; i < data.components; ++i)
    store_from(data.by_features + row + i * stride, by_a[i]);
}

// Calls body(kind, atom, type, channel) for all, where kind has the type of as many channels.
template <typename T, typename Body>
void for_all(const at::Tensor &first, int64_t channels, const Body &body)
{
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t *begins = first.const_data_ptr<int64_t>();
  const int64_t whole = channels / kLanes, parts = whole + channels % kLanes;
  in_parallel_parts(at::get_num_threads(), (first.numel() - 1) * parts,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t task = begin; task < end; ++task) {
                        const int64_t type = task / parts, part = task % parts;
                        for (int64_t atom = begins[type]; atom < begins[type + 1]; ++atom) {
                          if (part < whole)
                            body(Vec<T>{}, atom, type, part * kLanes);
                          else
                            body(T(0), atom, type, whole * (kLanes - 1) + part);
                        }
                      }
                    });
}

void check(const char *name, const at::Tensor &features, const at::Tensor &coefficients,
           const at::Tensor &first, const at::Tensor &program, int64_t outputs)
{
  TORCH_CHECK(features.dim() == 3 && features.is_contiguous() && features.size(1) <= kMaxComponents,
              "kan_md::", name, ": features are contiguous [atoms, up to ", kMaxComponents,
              " components, channels], got ", features.sizes());
  TORCH_CHECK(first.scalar_type() == at::kLong && first.is_contiguous() && first.numel() >= 1,
              "kan_md::", name, ": first is contiguous int64, got ", first.scalar_type());
  const int64_t *begins = first.const_data_ptr<int64_t>(), types = first.numel() - 1;
  for (int64_t type = 0; type <= types; ++type)
    TORCH_CHECK(begins[type] >= (type ? begins[type - 1] : 0) && begins[type] <= features.size(0),
                "kan_md::", name, ": first does not ascend to ", features.size(0));
  TORCH_CHECK(begins[0] == 0 && begins[types] == features.size(0), "kan_md::", name,
              ": first leaves atoms out");
  TORCH_CHECK(coefficients.dim() == 3 && coefficients.is_contiguous() &&
                  coefficients.size(0) == types && coefficients.size(2) == features.size(2) &&
                  coefficients.scalar_type() == features.scalar_type(),
              "kan_md::", name, ": coefficients are contiguous [", types, ", terms, ",
              features.size(2), "], got ", coefficients.sizes());
  TORCH_CHECK(program.scalar_type() == at::kInt && program.is_contiguous(), "kan_md::", name,
              ": program is contiguous int32");
  check_program(name, program, outputs, features.size(1), coefficients.size(1));
}

void check_like(const char *name, const at::Tensor &given, const at::Tensor &like, int64_t rows)
{
  TORCH_CHECK(given.dim() == 3 && given.is_contiguous() && given.size(0) == like.size(0) &&
                  given.size(1) == rows && given.size(2) == like.size(2) &&
                  given.scalar_type() == like.scalar_type(),
              "kan_md::", name, ": contiguous [", like.size(0), ", ", rows, ", ", like.size(2),
              "] of one dtype, got ", given.sizes());
}

template <typename T>
Data<T> data_of(const at::Tensor &features, const at::Tensor &coefficients,
                const at::Tensor &program, int64_t outputs)
{
  Data<T> data{};
  data.features = features.const_data_ptr<T>();
  data.coefficients = coefficients.const_data_ptr<T>();
  data.program = program.const_data_ptr<int32_t>();
  data.channels = features.size(2);
  data.components = features.size(1);
  data.outputs = outputs;
  data.terms = coefficients.size(1);
  return data;
}

}    // namespace

at::Tensor contraction(const at::Tensor &features, const at::Tensor &coefficients,
                       const at::Tensor &first, const at::Tensor &program, int64_t outputs)
{
  check("contraction", features, coefficients, first, program, outputs);
  const at::Tensor out =
      at::empty({features.size(0), outputs, features.size(2)}, features.options());
  AT_DISPATCH_FLOATING_TYPES(features.scalar_type(), "contraction", [&] {
    auto data = data_of<scalar_t>(features, coefficients, program, outputs);
    data.out = out.mutable_data_ptr<scalar_t>();
    for_all<scalar_t>(first, data.channels, [&](auto kind, int64_t atom, int64_t type, int64_t u) {
      evaluate<decltype(kind)>(data, atom, type, u);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> contraction_gradients(const at::Tensor &field,
                                                         const at::Tensor &features,
                                                         const at::Tensor &coefficients,
                                                         const at::Tensor &first,
                                                         const at::Tensor &program)
{
  check("contraction_gradients", features, coefficients, first, program, field.size(1));
  check_like("contraction_gradients", field, features, field.size(1));
  const at::Tensor by_features = at::zeros_like(features);
  const at::Tensor by_coefficients = at::zeros_like(coefficients);
  AT_DISPATCH_FLOATING_TYPES(features.scalar_type(), "contraction_gradients", [&] {
    auto data = data_of<scalar_t>(features, coefficients, program, field.size(1));
    data.field = field.const_data_ptr<scalar_t>();
    data.by_features = by_features.mutable_data_ptr<scalar_t>();
    data.by_coefficients = by_coefficients.mutable_data_ptr<scalar_t>();
    for_all<scalar_t>(first, data.channels, [&](auto kind, int64_t atom, int64_t type, int64_t u) {
      using V = decltype(kind);
      differentiate<V, V>(data, atom, type, u);
    });
  });
  return {by_features, by_coefficients};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor>
contraction_along(const at::Tensor &along, const at::Tensor &field, const at::Tensor &features,
                  const at::Tensor &coefficients, const at::Tensor &first,
                  const at::Tensor &program)
{
  check("contraction_along", features, coefficients, first, program, field.size(1));
  check_like("contraction_along", field, features, field.size(1));
  check_like("contraction_along", along, features, features.size(1));
  const at::Tensor out = at::zeros_like(field), by_features = at::zeros_like(features);
  const at::Tensor by_coefficients = at::zeros_like(coefficients);
  AT_DISPATCH_FLOATING_TYPES(features.scalar_type(), "contraction_along", [&] {
    auto data = data_of<scalar_t>(features, coefficients, program, field.size(1));
    data.along = along.const_data_ptr<scalar_t>();
    data.field = field.const_data_ptr<scalar_t>();
    data.out = out.mutable_data_ptr<scalar_t>();
    data.by_features = by_features.mutable_data_ptr<scalar_t>();
    data.by_coefficients = by_coefficients.mutable_data_ptr<scalar_t>();
    for_all<scalar_t>(first, data.channels, [&](auto kind, int64_t atom, int64_t type, int64_t u) {
      using V = decltype(kind);
      differentiate<Dual<V>, V>(data, atom, type, u);
    });
  });
  return {out, by_features, by_coefficients};
}

}    // namespace kan_md::ops
