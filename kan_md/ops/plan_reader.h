// Reads what an operator of a whole model is given: a list of numbers and a list of tensors.

#ifndef KAN_MD_OPS_PLAN_READER_H
#define KAN_MD_OPS_PLAN_READER_H

#include "dense.h"
#include "kan_rows.h"
#include "piecewise.h"
#include "simd.h"

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <vector>

namespace kan_md::ops {

// Takes numbers and tensors one after the other and checks each.
template <typename T> class PlanReader {
 public:
  // name: of the operator, for messages.
  PlanReader(const char *name, const std::vector<at::Tensor> &weights, c10::IntArrayRef shape) :
      name_(name), weights_(weights), shape_(shape)
  {
  }

  int64_t number()
  {
    TORCH_CHECK(number_ < shape_.size(), name_, ": shape is too short");
    return shape_[number_++];
  }

  // A width of channels: kernels work on whole blocks.
  int64_t width()
  {
    const int64_t value = number();
    TORCH_CHECK(value > 0 && value % Simd<T>::kBlock == 0, name_, ": widths are multiples of ",
                Simd<T>::kBlock, ", got ", value);
    return value;
  }

  template <typename U> const U *tensor(c10::IntArrayRef sizes)
  {
    const at::Tensor &found = next();
    TORCH_CHECK(found.sizes() == sizes && found.is_contiguous() &&
                    found.scalar_type() == c10::CppTypeToScalarType<U>::value,
                name_, ": weight ", tensor_ - 1, " must be a contiguous ", sizes, ", got ",
                found.sizes(), " of ", found.scalar_type());
    return found.const_data_ptr<U>();
  }

  const at::Tensor &peek() const
  {
    TORCH_CHECK(tensor_ < weights_.size(), name_, ": too few weights");
    return weights_[tensor_];
  }

  Product<T> product(int64_t in, int64_t out)
  {
    const T *weight = tensor<T>({in, out});
    return {weight, tensor<T>({out, in}), in, out};
  }

  Pieces<T> pieces(int64_t width)
  {
    Pieces<T> result;
    result.origin = static_cast<int32_t>(number());
    const int64_t num_pieces = peek().dim() == 3 ? peek().size(1) : 0;
    TORCH_CHECK(result.origin >= 0 && result.origin < num_pieces, name_,
                ": origin must be a piece, got ", result.origin);
    result.num_pieces = static_cast<int32_t>(num_pieces);
    result.pieces = tensor<T>({width, num_pieces, kPieceRow});
    if (peek().dim() == 1) {
      result.inverse_step = tensor<T>({width});
      return result;
    }
    const int64_t num_tail = number();
    TORCH_CHECK(num_tail >= 1 && 2 * num_tail + 2 < num_pieces, name_, ": two tails among ",
                num_pieces, " pieces, got ", num_tail, " in each");
    result.num_tail = static_cast<int32_t>(num_tail);
    result.inverse_step = tensor<T>({2, width});
    result.tail_ratio = result.inverse_step + width;
    return result;
  }

  KanLayer<T> kan_layer(int64_t in, int64_t out)
  {
    KanLayer<T> layer;
    const int64_t basis = number();
    TORCH_CHECK(basis >= 0 && basis <= static_cast<int64_t>(Basis::kFourier), name_,
                ": unknown basis ", basis);
    layer.basis = static_cast<Basis>(basis);
    layer.in = in;
    layer.num_basis = number();
    layer.order = number();
    layer.steps = number();
    layer.silu = number() != 0;
    TORCH_CHECK(layer.num_basis >= 1 && layer.steps >= 1 && layer.order >= 1 &&
                    layer.order <= kMostOrder,
                name_, ": a KAN has functions, steps and an order up to ", kMostOrder, ", got ",
                layer.num_basis, ", ", layer.steps, " and ", layer.order);
    layer.grid = tensor<T>({3, in});
    layer.at_zero = tensor<T>({layer.num_basis, in});
    if (layer.basis == Basis::kBSpline)
      layer.pieces = tensor<T>({layer.order + 1, layer.order + 1});
    layer.product = product(layer.num_rows() * in, out);
    return layer;
  }

  // What says where a distance lies in the table of each pair.
  std::vector<IntervalEnds> intervals(int64_t num_pairs, int64_t num_intervals)
  {
    const double *ends = tensor<double>({num_pairs, num_intervals + 1});
    const int64_t num_cells = peek().dim() == 2 ? peek().size(1) : 0;
    TORCH_CHECK(num_cells >= 1, name_, ": cells must be [num_pairs, cells]");
    const int32_t *cells = tensor<int32_t>({num_pairs, num_cells});
    for (int64_t n = 0; n < num_pairs * num_cells; ++n)
      TORCH_CHECK(cells[n] >= 0 && cells[n] < num_intervals, name_,
                  ": a cell names an interval that is not there");
    std::vector<IntervalEnds> result;
    for (int64_t pair = 0; pair < num_pairs; ++pair)
      result.push_back(
          {ends + pair * (num_intervals + 1), cells + pair * num_cells, num_intervals, num_cells});
    return result;
  }

  void finish() const
  {
    TORCH_CHECK(number_ == shape_.size() && tensor_ == weights_.size(), name_,
                ": shape and weights do not belong together");
  }

 private:
  const at::Tensor &next()
  {
    const at::Tensor &found = peek();
    ++tensor_;
    return found;
  }

  const char *name_;
  const std::vector<at::Tensor> &weights_;
  c10::IntArrayRef shape_;
  size_t number_ = 0, tensor_ = 0;
};

}    // namespace kan_md::ops

#endif
