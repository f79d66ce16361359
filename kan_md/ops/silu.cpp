// SiLU with derivatives, for training.
//
//   silu_jets    (z, z') -> (s(z), s'(z) z') of numbers that come with their derivative by one variable,
//                and the gradient of whatever is made of both
//   silu_along   what the derivative g s'(z) is along a direction of both: by g and by z

#include "kan_functions.h"
#include "ops.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

namespace kan_md::ops {
namespace {

constexpr int64_t kVectorsPerThread = 1024;

// body(at, count): of `count` numbers from `at` on, a whole vector but for the last.
template <typename T, typename Body> void for_vectors(int64_t size, Body &&body)
{
  constexpr int64_t kLanes = Simd<T>::kLanes;
  const int64_t vectors = (size + kLanes - 1) / kLanes;
  const int threads =
      static_cast<int>(std::clamp<int64_t>(vectors / kVectorsPerThread, 1, at::get_num_threads()));
  in_parallel_parts(threads, vectors, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) body(v * kLanes, std::min(kLanes, size - v * kLanes));
  });
}

template <typename T> KAN_MD_INLINE Vec<T> get(const T *p, int64_t count)
{
  if (count == Simd<T>::kLanes) return load(p);
  Vec<T> v{};
  std::memcpy(&v, p, sizeof(T) * count);
  return v;
}

template <typename T> KAN_MD_INLINE void put(T *p, Vec<T> v, int64_t count)
{
  std::memcpy(p, &v, sizeof(T) * count);
}

void check(const at::Tensor &z, const at::Tensor &like)
{
  TORCH_CHECK(z.is_contiguous() && z.dim() >= 1 && z.size(0) == 2 && z.sizes() == like.sizes() &&
                  z.scalar_type() == like.scalar_type(),
              "kan_md::silu_jets: contiguous [2, ...], got ", z.sizes());
}

}    // namespace

at::Tensor silu_jets(const at::Tensor &z)
{
  check(z, z);
  const at::Tensor out = at::empty(z.sizes(), z.options());
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "silu_jets", [&] {
    const int64_t size = z.numel() / 2;
    const scalar_t *const from = z.const_data_ptr<scalar_t>();
    scalar_t *const to = out.mutable_data_ptr<scalar_t>();
    for_vectors<scalar_t>(size, [&](int64_t at, int64_t count) {
      const Taylor<scalar_t> s = detail::silu_at<scalar_t>(get(from + at, count));
      put(to + at, s.f, count);
      put<scalar_t>(to + size + at, s.slope * get(from + size + at, count), count);
    });
  });
  return out;
}

at::Tensor silu_jets_backward(const at::Tensor &grad, const at::Tensor &z)
{
  check(z, z);
  check(grad, z);
  const at::Tensor out = at::empty(z.sizes(), z.options());
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "silu_jets_backward", [&] {
    const int64_t size = z.numel() / 2;
    const scalar_t *const from = z.const_data_ptr<scalar_t>();
    const scalar_t *const by = grad.const_data_ptr<scalar_t>();
    scalar_t *const to = out.mutable_data_ptr<scalar_t>();
    for_vectors<scalar_t>(size, [&](int64_t at, int64_t count) {
      const Taylor<scalar_t> s = detail::silu_at<scalar_t>(get(from + at, count));
      const Vec<scalar_t> by_slope = get(by + size + at, count);
      put<scalar_t>(
          to + at,
          s.slope * get(by + at, count) + s.curve * get(from + size + at, count) * by_slope, count);
      put<scalar_t>(to + size + at, s.slope * by_slope, count);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> silu_along(const at::Tensor &along, const at::Tensor &grad,
                                              const at::Tensor &z)
{
  for (const at::Tensor &t : {along, grad, z})
    TORCH_CHECK(t.is_contiguous() && t.sizes() == z.sizes() && t.scalar_type() == z.scalar_type(),
                "kan_md::silu_along: contiguous tensors of one shape and dtype, got ", t.sizes(),
                " and ", z.sizes());
  const at::Tensor by_grad = at::empty(z.sizes(), z.options());
  const at::Tensor by_z = at::empty(z.sizes(), z.options());
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "silu_along", [&] {
    const scalar_t *const direction = along.const_data_ptr<scalar_t>();
    const scalar_t *const g = grad.const_data_ptr<scalar_t>();
    const scalar_t *const from = z.const_data_ptr<scalar_t>();
    scalar_t *const first = by_grad.mutable_data_ptr<scalar_t>();
    scalar_t *const second = by_z.mutable_data_ptr<scalar_t>();
    for_vectors<scalar_t>(z.numel(), [&](int64_t at, int64_t count) {
      const Taylor<scalar_t> s = detail::silu_at<scalar_t>(get(from + at, count));
      const Vec<scalar_t> v = get(direction + at, count);
      put<scalar_t>(first + at, v * s.slope, count);
      put<scalar_t>(second + at, v * get(g + at, count) * s.curve, count);
    });
  });
  return {by_grad, by_z};
}

}    // namespace kan_md::ops
