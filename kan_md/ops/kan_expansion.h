// The basis functions of a KAN layer while it is trained: x [n, in] to rows [n, num_rows * in], which a
// matrix of the layer's weights makes its outputs of, see kan_rows.h. Forward and reverse, for dual
// numbers too: their slopes are what a loss in forces needs.

#ifndef KAN_MD_OPS_KAN_EXPANSION_H
#define KAN_MD_OPS_KAN_EXPANSION_H

#include "dual.h"
#include "kan_functions.h"
#include "kan_rows.h"

namespace kan_md::ops {
namespace detail {

// row(number, {f, f', f''}) for all functions of an input at place, by steps; beyond its grid each goes
// on along its tangent, and at x = 0 it is zero, bit for bit.
template <typename Functions, typename T, typename Row>
KAN_MD_INLINE void expand_at(const KanLayer<T> &layer, const GridPlace<T> &place, int64_t i,
                             Row row)
{
  Functions::visit(layer, place,
                   [&](int64_t m, Vec<T> value, Vec<T> slope, Vec<T> curve)
                       __attribute__((always_inline)) {
                         value -= load(layer.at_zero + m * layer.in + i);
                         value = place.s == 0 ? fill<T>(0) : value;
                         curve = place.s == place.inside ? curve : fill<T>(0);
                         row(m, Taylor<T>{value + place.beyond * slope, slope, curve});
                       });
  if (!layer.silu) return;
  const Vec<T> step = load(layer.grid + 2 * layer.in + i);
  Taylor<T> silu = silu_at<T>(step * place.s);
  silu.slope *= step;
  silu.curve *= step * step;
  row(layer.num_basis, silu);
}

}    // namespace detail

// rows [n, num_rows * in] of x [n, in].
template <typename T, int Planes>
void expand(const KanLayer<T> &layer, const Rows<T, Planes, false> &x,
            const Rows<T, Planes, false> &rows)
{
  detail::with_basis(layer, [&]<typename Functions>() {
    for (int64_t e = 0; e < x.count; ++e)
      for (int64_t i = 0; i < layer.in; i += Simd<T>::kLanes) {
        const Number<T, Planes> here = x.get(e, i);
        const detail::GridPlace<T> place(value_of<T, Planes>(here), layer, i);
        const Number<T, Planes> s = scaled(here, load(layer.grid + i));
        detail::expand_at<Functions>(
            layer, place, i, [&](int64_t m, Taylor<T> f) __attribute__((always_inline)) {
              rows.put(e, m * layer.in + i, with_slope<T, Planes>(f.f, f.slope, s));
            });
      }
  });
}

// x_grad [n, in] from rows_grad. In dual passes the gradient of the scale, steps per unit of x, is added
// to scale_grads [in].
template <typename T, int Planes>
void reverse_expansion(const KanLayer<T> &layer, const Rows<T, Planes, false> &x,
                       const Rows<T, Planes, true> &rows_grad, const Rows<T, Planes, true> &x_grad,
                       T *scale_grads)
{
  detail::with_basis(layer, [&]<typename Functions>() {
    for (int64_t i = 0; i < layer.in; i += Simd<T>::kLanes) {
      const Vec<T> scale = load(layer.grid + i);
      Vec<T> of_scale{};
      for (int64_t e = 0; e < x.count; ++e) {
        const Number<T, Planes> here = x.get(e, i);
        const detail::GridPlace<T> place(value_of<T, Planes>(here), layer, i);
        const Number<T, Planes> s = scaled(here, scale);
        Number<T, Planes> total{};
        detail::expand_at<Functions>(layer, place, i,
                                     [&](int64_t m, Taylor<T> f) __attribute__((always_inline)) {
                                       total += rows_grad.get(e, m * layer.in + i) *
                                                with_slope<T, Planes>(f.slope, f.curve, s);
                                     });
        x_grad.put(e, i, scaled(total, scale));
        if constexpr (Planes == 2) {
          const Dual<T> product = total * here;
          of_scale += product.slope;
        }
      }
      if constexpr (Planes == 2) store(scale_grads + i, load(scale_grads + i) + of_scale);
    }
  });
}

}    // namespace kan_md::ops

#endif
