// kan_md::polynomial, see ops.h.

#include "neighbours.h"
#include "ops.h"
#include "polynomial_kernels.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

namespace kan_md::ops {
namespace {

int64_t total(c10::IntArrayRef rows)
{
  int64_t sum = 0;
  for (const int64_t n : rows) sum += n;
  TORCH_CHECK(sum >= 1 && sum <= kMaxComponents, "kan_md::polynomial: 1 to ", kMaxComponents,
              " components and outputs, got ", sum);
  return sum;
}

void check(const at::Tensor &a, const at::Tensor &atom_types, const at::Tensor &coefficients,
           const at::Tensor &program, c10::IntArrayRef components, c10::IntArrayRef outputs)
{
  const int64_t num_components = total(components);
  TORCH_CHECK(a.dim() == 2 && a.size(0) == atom_types.numel() * num_components,
              "kan_md::polynomial: a must be [", atom_types.numel(), " * ", num_components,
              ", channels], got ", a.sizes());
  const int64_t block = kBlockBytes / a.element_size();
  TORCH_CHECK(coefficients.dim() == 4 && coefficients.size(1) == blocks(a.size(1), block) &&
                  coefficients.size(3) == block && coefficients.scalar_type() == a.scalar_type(),
              "kan_md::polynomial: coefficients must be [num_types, ", blocks(a.size(1), block),
              ", num_terms, ", block, "] of the dtype of a, got ", coefficients.sizes());
  TORCH_CHECK(program.scalar_type() == at::kInt && program.is_contiguous(),
              "kan_md::polynomial: program must be int32");
  check_program("kan_md::polynomial", program, total(outputs), num_components,
                coefficients.size(2));
  const int64_t *types = atom_types.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < atom_types.numel(); ++i)
    TORCH_CHECK(types[i] >= 0 && types[i] < coefficients.size(0), "kan_md: atom type ", types[i],
                " of atom ", i, ", there are ", coefficients.size(0));
}

// Features in blocks: for each entry n of rows, [num_atoms, n, channels].
struct Layout {
  c10::IntArrayRef rows;
  int64_t num_atoms, channels;

  // Call with every row of an atom: its number in all and the offset of its first channel.
  template <typename Call> void for_each_row(int64_t atom, const Call &call) const
  {
    int64_t before = 0;
    for (const int64_t n : rows) {
      for (int64_t m = 0; m < n; ++m)
        call(before + m, (before * num_atoms + atom * n + m) * channels);
      before += n;
    }
  }
};

// All rows of one atom, one line of channels, zero beyond the last channel.
template <typename T>
void pack(const T *source, const Layout &layout, int64_t atom, int64_t from, T *target)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t width = std::min<int64_t>(kBlock, layout.channels - from);
  layout.for_each_row(atom, [&](int64_t m, int64_t offset) {
    std::copy_n(source + offset + from, width, target + m * kBlock);
    std::fill(target + m * kBlock + width, target + (m + 1) * kBlock, T(0));
  });
}

template <typename T>
void unpack(const T *source, const Layout &layout, int64_t atom, int64_t from, T *target)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t width = std::min<int64_t>(kBlock, layout.channels - from);
  layout.for_each_row(atom, [&](int64_t m, int64_t offset) {
    std::copy_n(source + m * kBlock, width, target + offset + from);
  });
}

template <typename T>
at::Tensor forward(const at::Tensor &a, const at::Tensor &atom_types,
                   const at::Tensor &coefficients, const at::Tensor &program,
                   c10::IntArrayRef components, c10::IntArrayRef outputs, int64_t count)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t num_atoms = atom_types.numel(), channels = a.size(1);
  const int64_t num_outputs = total(outputs);
  const int64_t num_blocks = coefficients.size(1), terms = coefficients.size(2);
  const Layout layout{components, num_atoms, channels}, out_layout{outputs, num_atoms, channels};
  at::Tensor out = at::empty({num_atoms * num_outputs, channels}, a.options());
  if (count < num_atoms) out.zero_();
  const T *a_data = a.const_data_ptr<T>(), *p = coefficients.const_data_ptr<T>();
  T *out_data = out.mutable_data_ptr<T>();
  const int64_t *types = atom_types.const_data_ptr<int64_t>();
  const int32_t *code = program.const_data_ptr<int32_t>();
  in_parallel_parts(at::get_num_threads(), count, [&](int64_t begin, int64_t end) {
    alignas(kBlockBytes) T in[kMaxComponents * kBlock], result[kMaxComponents * kBlock];
    for (int64_t b = 0; b < num_blocks; ++b)
      for (int64_t i = begin; i < end; ++i) {
        pack(a_data, layout, i, b * kBlock, in);
        evaluate_polynomial(in, p + (types[i] * num_blocks + b) * terms * kBlock, code, num_outputs,
                            result);
        unpack(result, out_layout, i, b * kBlock, out_data);
      }
  });
  return out;
}

template <typename T>
at::Tensor reverse(const at::Tensor &out_grad, const at::Tensor &a, const at::Tensor &atom_types,
                   const at::Tensor &coefficients, const at::Tensor &program,
                   c10::IntArrayRef components, c10::IntArrayRef outputs, int64_t count)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t num_atoms = atom_types.numel(), channels = a.size(1);
  const int64_t num_outputs = total(outputs), num_components = total(components);
  const int64_t num_blocks = coefficients.size(1), terms = coefficients.size(2);
  const Layout layout{components, num_atoms, channels}, out_layout{outputs, num_atoms, channels};
  at::Tensor a_grad = at::empty_like(a);
  if (count < num_atoms) a_grad.zero_();
  const T *a_data = a.const_data_ptr<T>(), *p = coefficients.const_data_ptr<T>();
  const T *up = out_grad.const_data_ptr<T>();
  T *grad_data = a_grad.mutable_data_ptr<T>();
  const int64_t *types = atom_types.const_data_ptr<int64_t>();
  const int32_t *code = program.const_data_ptr<int32_t>();
  in_parallel_parts(at::get_num_threads(), count, [&](int64_t begin, int64_t end) {
    alignas(kBlockBytes) T in[kMaxComponents * kBlock], g[kMaxComponents * kBlock];
    alignas(kBlockBytes) T grad[kMaxComponents * kBlock];
    for (int64_t b = 0; b < num_blocks; ++b)
      for (int64_t i = begin; i < end; ++i) {
        pack(a_data, layout, i, b * kBlock, in);
        pack(up, out_layout, i, b * kBlock, g);
        std::fill_n(grad, num_components * kBlock, T(0));
        reverse_polynomial(in, p + (types[i] * num_blocks + b) * terms * kBlock, code, num_outputs,
                           g, grad);
        unpack(grad, layout, i, b * kBlock, grad_data);
      }
  });
  return a_grad;
}

}    // namespace

at::Tensor polynomial(const at::Tensor &a, const at::Tensor &atom_types,
                      const at::Tensor &coefficients, const at::Tensor &program,
                      c10::IntArrayRef components, c10::IntArrayRef outputs,
                      const std::optional<at::Tensor> &num_centres)
{
  check(a, atom_types, coefficients, program, components, outputs);
  const int64_t count = num_computed(num_centres, atom_types.numel());
  const at::Tensor a_ = a.contiguous(), p = coefficients.contiguous();
  return a.scalar_type() == at::kFloat
             ? forward<float>(a_, atom_types, p, program, components, outputs, count)
             : forward<double>(a_, atom_types, p, program, components, outputs, count);
}

at::Tensor polynomial_backward(const at::Tensor &out_grad, const at::Tensor &a,
                               const at::Tensor &atom_types, const at::Tensor &coefficients,
                               const at::Tensor &program, c10::IntArrayRef components,
                               c10::IntArrayRef outputs,
                               const std::optional<at::Tensor> &num_centres)
{
  check(a, atom_types, coefficients, program, components, outputs);
  const int64_t count = num_computed(num_centres, atom_types.numel());
  TORCH_CHECK(out_grad.dim() == 2 && out_grad.size(1) == a.size(1) &&
                  out_grad.size(0) == atom_types.numel() * total(outputs) &&
                  out_grad.scalar_type() == a.scalar_type(),
              "kan_md::polynomial_backward: out_grad does not fit, got ", out_grad.sizes());
  const at::Tensor a_ = a.contiguous(), p = coefficients.contiguous(), g = out_grad.contiguous();
  return a.scalar_type() == at::kFloat
             ? reverse<float>(g, a_, atom_types, p, program, components, outputs, count)
             : reverse<double>(g, a_, atom_types, p, program, components, outputs, count);
}

}    // namespace kan_md::ops
