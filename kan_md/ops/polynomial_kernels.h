// MACE's symmetric contraction as a sparse polynomial, evaluated by nested Horner sums:
//
//   out_m = sum_i A_i (p_i + sum_j A_j (p_ij + sum_l p_ijl A_l)),   i <= j <= l,
//
// one fused multiply-add per monomial, vectorised over channels. The reverse pass walks the same
// nest once: dA_i += g inner_i, dA_j += g A_i inner_ij, dA_l += g A_i A_j p_ijl.
//
// program, per output:  n_i { i, has_p_i, n_j { j, has_p_ij, n_l { l } } }
// with the coefficients in the order in which this nest meets them.

#ifndef KAN_MD_OPS_POLYNOMIAL_KERNELS_H
#define KAN_MD_OPS_POLYNOMIAL_KERNELS_H

#include "simd.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace kan_md::ops {

constexpr int kMaxComponents = 64;

// a: [num_components, block] of one atom; out: [num_outputs, block].
template <typename T>
void evaluate_polynomial(const T *a, const T *p, const int32_t *program, int64_t num_outputs,
                         T *out)
{
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes, kVecs = Simd<T>::kVecs;
  for (int64_t m = 0; m < num_outputs; ++m) {
    Vec<T> total[kVecs] = {};
    for (int32_t n_i = *program++; n_i > 0; --n_i) {
      const T *a_i = a + *program++ * kBlock;
      Vec<T> inner_i[kVecs] = {};
      if (*program++) {
        for (int v = 0; v < kVecs; ++v) inner_i[v] = load(p + v * kLanes);
        p += kBlock;
      }
      for (int32_t n_j = *program++; n_j > 0; --n_j) {
        const T *a_j = a + *program++ * kBlock;
        Vec<T> inner_ij[kVecs] = {};
        if (*program++) {
          for (int v = 0; v < kVecs; ++v) inner_ij[v] = load(p + v * kLanes);
          p += kBlock;
        }
        for (int32_t n_l = *program++; n_l > 0; --n_l, p += kBlock) {
          const T *a_l = a + *program++ * kBlock;
          for (int v = 0; v < kVecs; ++v)
            inner_ij[v] += load(p + v * kLanes) * load(a_l + v * kLanes);
        }
        for (int v = 0; v < kVecs; ++v) inner_i[v] += load(a_j + v * kLanes) * inner_ij[v];
      }
      for (int v = 0; v < kVecs; ++v) total[v] += load(a_i + v * kLanes) * inner_i[v];
    }
    for (int v = 0; v < kVecs; ++v) store(out + m * kBlock + v * kLanes, total[v]);
  }
}

template <typename T> inline void add_to(T *p, Vec<T> v)
{
  store(p, load(p) + v);
}

// g: [num_outputs, block] upstream; a_grad: [num_components, block], added to.
template <typename T>
void reverse_polynomial(const T *a, const T *p, const int32_t *program, int64_t num_outputs,
                        const T *g, T *a_grad)
{
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes, kVecs = Simd<T>::kVecs;
  for (int64_t m = 0; m < num_outputs; ++m) {
    Vec<T> up[kVecs];
    for (int v = 0; v < kVecs; ++v) up[v] = load(g + m * kBlock + v * kLanes);
    for (int32_t n_i = *program++; n_i > 0; --n_i) {
      const int64_t i = *program++ * kBlock;
      Vec<T> inner_i[kVecs] = {}, up_i[kVecs];
      if (*program++) {
        for (int v = 0; v < kVecs; ++v) inner_i[v] = load(p + v * kLanes);
        p += kBlock;
      }
      for (int v = 0; v < kVecs; ++v) up_i[v] = up[v] * load(a + i + v * kLanes);
      for (int32_t n_j = *program++; n_j > 0; --n_j) {
        const int64_t j = *program++ * kBlock;
        Vec<T> inner_ij[kVecs] = {}, up_ij[kVecs];
        if (*program++) {
          for (int v = 0; v < kVecs; ++v) inner_ij[v] = load(p + v * kLanes);
          p += kBlock;
        }
        for (int v = 0; v < kVecs; ++v) up_ij[v] = up_i[v] * load(a + j + v * kLanes);
        for (int32_t n_l = *program++; n_l > 0; --n_l, p += kBlock) {
          const int64_t l = *program++ * kBlock;
          for (int v = 0; v < kVecs; ++v) {
            const Vec<T> c = load(p + v * kLanes);
            inner_ij[v] += c * load(a + l + v * kLanes);
            add_to(a_grad + l + v * kLanes, up_ij[v] * c);
          }
        }
        for (int v = 0; v < kVecs; ++v) {
          inner_i[v] += load(a + j + v * kLanes) * inner_ij[v];
          add_to(a_grad + j + v * kLanes, up_i[v] * inner_ij[v]);
        }
      }
      for (int v = 0; v < kVecs; ++v) add_to(a_grad + i + v * kLanes, up[v] * inner_i[v]);
    }
  }
}

// Value and gradient of one output in one walk: out [block], a_grad [num_components, block].
template <typename T>
void differentiate_polynomial(const T *a, const T *p, const int32_t *program,
                              int64_t num_components, T *out, T *a_grad)
{
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes, kVecs = Simd<T>::kVecs;
  std::fill_n(a_grad, num_components * kBlock, T(0));
  Vec<T> total[kVecs] = {};
  for (int32_t n_i = *program++; n_i > 0; --n_i) {
    const int64_t i = *program++ * kBlock;
    Vec<T> inner_i[kVecs] = {}, a_i[kVecs];
    if (*program++) {
      for (int v = 0; v < kVecs; ++v) inner_i[v] = load(p + v * kLanes);
      p += kBlock;
    }
    for (int v = 0; v < kVecs; ++v) a_i[v] = load(a + i + v * kLanes);
    for (int32_t n_j = *program++; n_j > 0; --n_j) {
      const int64_t j = *program++ * kBlock;
      Vec<T> inner_ij[kVecs] = {}, a_j[kVecs], a_ij[kVecs];
      if (*program++) {
        for (int v = 0; v < kVecs; ++v) inner_ij[v] = load(p + v * kLanes);
        p += kBlock;
      }
      for (int v = 0; v < kVecs; ++v) {
        a_j[v] = load(a + j + v * kLanes);
        a_ij[v] = a_i[v] * a_j[v];
      }
      for (int32_t n_l = *program++; n_l > 0; --n_l, p += kBlock) {
        const int64_t l = *program++ * kBlock;
        for (int v = 0; v < kVecs; ++v) {
          const Vec<T> c = load(p + v * kLanes);
          inner_ij[v] += c * load(a + l + v * kLanes);
          add_to(a_grad + l + v * kLanes, a_ij[v] * c);
        }
      }
      for (int v = 0; v < kVecs; ++v) {
        inner_i[v] += a_j[v] * inner_ij[v];
        add_to(a_grad + j + v * kLanes, a_i[v] * inner_ij[v]);
      }
    }
    for (int v = 0; v < kVecs; ++v) {
      total[v] += a_i[v] * inner_i[v];
      add_to(a_grad + i + v * kLanes, inner_i[v]);
    }
  }
  for (int v = 0; v < kVecs; ++v) store(out + v * kLanes, total[v]);
}

// Walk the program once: its length, its number of terms and its components must be consistent.
inline void check_program(const char *name, const at::Tensor &program, int64_t num_outputs,
                          int64_t num_components, int64_t num_terms)
{
  const int32_t *at = program.const_data_ptr<int32_t>(), *end = at + program.numel();
  int64_t terms = 0;
  auto next = [&]() -> int32_t {
    TORCH_CHECK(at < end, name, ": program ends early");
    return *at++;
  };
  auto component = [&]() {
    const int32_t i = next();
    TORCH_CHECK(i >= 0 && i < num_components, name, ": component ", i, ", there are ",
                num_components);
  };
  for (int64_t m = 0; m < num_outputs; ++m)
    for (int32_t n_i = next(); n_i > 0; --n_i) {
      component();
      terms += next() != 0;
      for (int32_t n_j = next(); n_j > 0; --n_j) {
        component();
        terms += next() != 0;
        for (int32_t n_l = next(); n_l > 0; --n_l, ++terms) component();
      }
    }
  TORCH_CHECK(at == end && terms == num_terms, name, ": program of ", terms,
              " terms, coefficients of ", num_terms);
}

}    // namespace kan_md::ops

#endif
