// kan_md::piecewise_sum, see ops.h.

#include "ops.h"
#include "piecewise.h"
#include "piecewise_arguments.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace kan_md::ops {
namespace {

template <typename T, bool Slopes>
void evaluate(const at::Tensor &x, const at::Tensor &pieces, const at::Tensor &inverse_step,
              int32_t origin, at::Tensor &y, at::Tensor &slope)
{
  const int64_t rows = x.size(0), in = x.size(1);
  const auto num_pieces = static_cast<int32_t>(pieces.size(1));
  const T *x_data = x.const_data_ptr<T>(), *piece_data = pieces.const_data_ptr<T>();
  const T *inverse = inverse_step.const_data_ptr<T>();
  T *y_data = y.mutable_data_ptr<T>(), *slope_data = slope.mutable_data_ptr<T>();
  in_parallel_parts(at::get_num_threads(), rows, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      y_data[n] = piecewise_row<T, Slopes>(in, x_data + n * in, piece_data, inverse, origin,
                                           num_pieces, Slopes ? slope_data + n * in : nullptr);
  });
}

}    // namespace

std::tuple<at::Tensor, at::Tensor> piecewise_sum(const at::Tensor &x, const at::Tensor &pieces,
                                                 const at::Tensor &inverse_step, int64_t origin,
                                                 bool slopes)
{
  check_piecewise("kan_md::piecewise_sum", x, pieces, inverse_step, origin);
  TORCH_CHECK(pieces.dim() == 3 && pieces.size(2) == kPieceRow,
              "kan_md::piecewise_sum: pieces must be [in, num_pieces, ", kPieceRow, "], got ",
              pieces.sizes());
  const at::Tensor x_ = x.contiguous(), c = pieces.contiguous();
  const at::Tensor inverse = inverse_step.contiguous();
  at::Tensor y = at::empty({x.size(0), 1}, x.options());
  at::Tensor slope = at::empty({slopes ? x.size(0) : 0, x.size(1)}, x.options());
  const auto first = static_cast<int32_t>(origin);
  const auto call = [&]<typename T>(T) {
    if (slopes)
      evaluate<T, true>(x_, c, inverse, first, y, slope);
    else
      evaluate<T, false>(x_, c, inverse, first, y, slope);
  };
  if (x.scalar_type() == at::kFloat)
    call(0.0f);
  else
    call(0.0);
  return {y, slope};
}

}    // namespace kan_md::ops
