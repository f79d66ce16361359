// What the operators on piecewise univariate functions ask of their arguments.

#ifndef KAN_MD_OPS_PIECEWISE_ARGUMENTS_H
#define KAN_MD_OPS_PIECEWISE_ARGUMENTS_H

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace kan_md::ops {

// x [n, in], pieces [in, num_pieces, ...], inverse_step [in]; one dtype; origin is one of the pieces.
inline void check_piecewise(const char *name, const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin)
{
  TORCH_CHECK(x.dim() == 2 && pieces.dim() >= 3 && pieces.size(0) == x.size(1), name,
              ": x must be [n, in] and pieces [in, num_pieces, ...], got ", x.sizes(), " and ",
              pieces.sizes());
  TORCH_CHECK(inverse_step.numel() == x.size(1), name, ": inverse_step must be [", x.size(1),
              "], got ", inverse_step.sizes());
  TORCH_CHECK(origin >= 0 && origin < pieces.size(1), name, ": origin must be below ",
              pieces.size(1), ", the number of pieces, got ", origin);
  for (const at::Tensor &t : {pieces, inverse_step})
    TORCH_CHECK(t.scalar_type() == x.scalar_type(), name, ": all tensors must be ", x.scalar_type(),
                " as x is, got ", t.scalar_type());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, name,
              ": x must be float32 or float64, got ", x.scalar_type());
}

}    // namespace kan_md::ops

#endif
