#include "allegro_plan.h"

#include "piecewise.h"
#include "simd.h"
#include "spherical_harmonics.h"

#include <c10/util/Exception.h>

namespace kan_md::ops {
namespace {

// Takes numbers and tensors one after the other and checks each.
template <typename T> class Reader {
 public:
  Reader(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape) :
      weights_(weights), shape_(shape)
  {
  }

  int64_t number()
  {
    TORCH_CHECK(number_ < shape_.size(), "kan_md::allegro: shape is too short");
    return shape_[number_++];
  }

  // A width of channels: kernels work on whole blocks.
  int64_t width()
  {
    const int64_t value = number();
    TORCH_CHECK(value > 0 && value % Simd<T>::kBlock == 0,
                "kan_md::allegro: widths are multiples of ", Simd<T>::kBlock, ", got ", value);
    return value;
  }

  template <typename U> const U *tensor(c10::IntArrayRef sizes)
  {
    const at::Tensor &found = next();
    TORCH_CHECK(found.sizes() == sizes && found.is_contiguous() &&
                    found.scalar_type() == c10::CppTypeToScalarType<U>::value,
                "kan_md::allegro: weight ", tensor_ - 1, " must be a contiguous ", sizes, ", got ",
                found.sizes(), " of ", found.scalar_type());
    return found.const_data_ptr<U>();
  }

  const at::Tensor &peek() const
  {
    TORCH_CHECK(tensor_ < weights_.size(), "kan_md::allegro: too few weights");
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
    TORCH_CHECK(result.origin >= 0 && result.origin < num_pieces,
                "kan_md::allegro: origin must be a piece, got ", result.origin);
    result.num_pieces = static_cast<int32_t>(num_pieces);
    result.pieces = tensor<T>({width, num_pieces, kPieceRow});
    result.inverse_step = tensor<T>({width});
    return result;
  }

  void finish() const
  {
    TORCH_CHECK(number_ == shape_.size() && tensor_ == weights_.size(),
                "kan_md::allegro: shape and weights do not belong together");
  }

 private:
  const at::Tensor &next()
  {
    const at::Tensor &found = peek();
    ++tensor_;
    return found;
  }

  const std::vector<at::Tensor> &weights_;
  c10::IntArrayRef shape_;
  size_t number_ = 0, tensor_ = 0;
};

}    // namespace

template <typename T>
AllegroPlan<T>::AllegroPlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape)
{
  Reader<T> read(weights, shape);
  l_max = static_cast<int>(read.number());
  TORCH_CHECK(l_max >= 0 && l_max <= kMaxL, "kan_md::allegro: l_max up to ", kMaxL, ", got ",
              l_max);
  channels = read.width();
  const int64_t num_layers = read.number();
  TORCH_CHECK(num_layers >= 1, "kan_md::allegro: at least one layer, got ", num_layers);
  const int64_t kind = read.number();
  TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Readout::kProjectedKan),
              "kan_md::allegro: unknown readout ", kind);
  readout = static_cast<Readout>(kind);
  readout_width = read.width();
  const int64_t pair_width = read.width();
  folded = readout == Readout::kKan && read.number() != 0;
  std::vector<std::vector<int64_t>> widths(num_layers);
  for (std::vector<int64_t> &of_layer : widths) {
    of_layer.resize(read.number());
    TORCH_CHECK(!of_layer.empty(), "kan_md::allegro: a layer needs a hidden width");
    for (int64_t &width : of_layer) width = read.width();
  }

  environment_at = weights_width();
  int64_t at = 2 * weights_width();
  for (const std::vector<int64_t> &of_layer : widths) {
    known_at.push_back(at);
    at += of_layer[0];
  }
  readout_at = at;
  num_functions = at + pair_width;
  const at::Tensor &rows = read.peek();
  TORCH_CHECK(rows.dim() == 4 && rows.size(1) >= 1,
              "kan_md::allegro: table must be [num_pairs, "
              "intervals, 6, functions], got ",
              rows.sizes());
  num_pairs = rows.size(0);
  num_knots = rows.size(1) + 1;
  table = read.template tensor<T>({num_pairs, num_knots - 1, 6, num_functions});
  cutoffs = read.template tensor<double>({num_pairs});
  environment_norm_per_type = read.peek().numel() > 1;
  environment_norm = read.template tensor<T>({read.peek().numel()});
  energy_norm_per_type = read.peek().numel() > 1;
  energy_norm = read.template tensor<T>({read.peek().numel()});
  if (readout == Readout::kKan) {
    if (!folded) pair_kan = read.pieces(readout_width);
  } else if (readout == Readout::kProjectedKan) {
    sum_kan = read.pieces(readout_width);
  } else {
    readout_vector = read.template tensor<T>({readout_width});
  }
  const int64_t basis = (l_max + 1) * (l_max + 1);
  for (int64_t l = 0; l < num_layers; ++l) {
    AllegroLayer<T> layer;
    layer.dim_in = read.number();
    layer.dim_out = read.number();
    TORCH_CHECK(layer.dim_in == (l == 0 ? basis : layers.back().dim_out) && layer.dim_out >= 1,
                "kan_md::allegro: layers do not fit each other");
    layer.num_terms = read.peek().dim() == 2 ? read.peek().size(0) : 0;
    layer.program = read.template tensor<int32_t>({layer.num_terms, 3});
    for (int64_t n = 0; n < layer.num_terms; ++n) {
      const int32_t *ijk = layer.program + 3 * n;
      TORCH_CHECK(ijk[0] >= 0 && ijk[0] < layer.dim_in && ijk[1] >= 0 && ijk[1] < basis &&
                      ijk[2] >= 0 && ijk[2] < layer.dim_out,
                  "kan_md::allegro: a term names components that are not there");
    }
    layer.terms = read.template tensor<T>({layer.num_terms, channels});
    layer.reads = read.product(channels, widths[l][0]);
    for (size_t d = 0; d + 1 < widths[l].size(); ++d)
      layer.hidden.push_back(read.product(widths[l][d], widths[l][d + 1]));
    int64_t out = l + 1 < num_layers ? weights_width() : 0;
    layer.later_at.assign(num_layers, -1);
    for (int64_t later = l + 1; later < num_layers; ++later) {
      layer.later_at[later] = out;
      out += widths[later][0];
    }
    layer.readout_at = out;
    layer.last = read.product(widths[l].back(), out + readout_width);
    if (readout == Readout::kKan) layer.kan = read.pieces(readout_width);
    layers.push_back(std::move(layer));
  }
  read.finish();
}

template struct AllegroPlan<float>;
template struct AllegroPlan<double>;

}    // namespace kan_md::ops
