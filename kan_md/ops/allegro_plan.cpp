#include "allegro_plan.h"

#include "plan_reader.h"
#include "spherical_harmonics.h"

#include <c10/util/Exception.h>

namespace kan_md::ops {
template <typename T>
AllegroPlan<T>::AllegroPlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape)
{
  PlanReader<T> read("kan_md::allegro", weights, shape);
  l_max = static_cast<int>(read.number());
  TORCH_CHECK(l_max >= 0 && l_max <= kMaxL, "kan_md::allegro: l_max up to ", kMaxL, ", got ",
              l_max);
  channels = read.width();
  scalars_width = read.width();
  const int64_t num_layers = read.number();
  TORCH_CHECK(num_layers >= 1, "kan_md::allegro: at least one layer, got ", num_layers);
  const int64_t kind = read.number();
  TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Readout::kProjectedKanNetwork),
              "kan_md::allegro: unknown readout ", kind);
  readout = static_cast<Readout>(kind);
  readout_width = read.width();
  TORCH_CHECK(readout != Readout::kKan || readout_width == scalars_width,
              "kan_md::allegro: a KAN readout reads all ", scalars_width, " scalars, got ",
              readout_width);
  const int64_t pair_width = read.width();
  folded = readout == Readout::kKan && read.number() != 0;
  std::vector<int64_t> readout_widths{readout_width};
  if (readout_is_kan_network() || readout == Readout::kPerceptron) {
    TORCH_CHECK(pair_width == readout_width, "kan_md::allegro: a network adds up ", readout_width,
                " columns, got ", pair_width, " of the pair");
    const int64_t num_maps = read.number();
    TORCH_CHECK(num_maps >= (readout_is_kan_network() ? 1 : 0),
                "kan_md::allegro: a network without maps");
    for (int64_t d = 0; d < num_maps; ++d) readout_widths.push_back(read.width());
  }
  std::vector<std::vector<int64_t>> widths(num_layers);
  layers.resize(num_layers);
  for (int64_t l = 0; l < num_layers; ++l) {
    const int64_t latent = read.number();
    TORCH_CHECK(latent >= 0 && latent <= static_cast<int64_t>(Latent::kProjectedKan),
                "kan_md::allegro: unknown latent network ", latent);
    layers[l].latent = static_cast<Latent>(latent);
    const int64_t num_widths = read.number();
    TORCH_CHECK(num_widths >= (layers[l].latent == Latent::kKan ? 0 : 1),
                "kan_md::allegro: a layer needs a hidden width");
    widths[l].resize(num_widths);
    for (int64_t &width : widths[l]) width = read.width();
    if (num_widths > 0) layers[l].first_width = widths[l][0];
  }
  for (int64_t l = 0; l < num_layers; ++l) place_result(l);

  environment_at = weights_width();
  int64_t at = 2 * weights_width();
  for (const AllegroLayer<T> &layer : layers) {
    known_at.push_back(at);
    at += layer.first_width;
  }
  readout_at = at;
  num_functions = at + pair_width;
  const at::Tensor &rows = read.peek();
  TORCH_CHECK(rows.dim() == 4 && rows.size(1) >= 1,
              "kan_md::allegro: table must be [num_pairs, "
              "intervals, 6, functions], got ",
              rows.sizes());
  num_pairs = rows.size(0);
  const int64_t num_intervals = rows.size(1);
  table = read.template tensor<T>({num_pairs, num_intervals, 6, num_functions});
  intervals = read.intervals(num_pairs, num_intervals);
  environment_norm_per_type = read.peek().numel() > 1;
  environment_norm = read.template tensor<T>({read.peek().numel()});
  energy_norm_per_type = read.peek().numel() > 1;
  energy_norm = read.template tensor<T>({read.peek().numel()});
  if (readout == Readout::kKan) {
    if (!folded) pair_kan = read.pieces(readout_width);
  } else if (readout == Readout::kProjectedKan) {
    sum_kan = read.pieces(readout_width);
  } else if (readout_is_kan_network()) {
    for (size_t d = 0; d + 1 < readout_widths.size(); ++d)
      readout_kans.push_back(read.kan_layer(readout_widths[d], readout_widths[d + 1]));
  } else {
    for (size_t d = 0; d + 1 < readout_widths.size(); ++d)
      readout_hidden.push_back(read.product(readout_widths[d], readout_widths[d + 1]));
    readout_vector = read.template tensor<T>({readout_widths.back()});
  }
  const int64_t basis = (l_max + 1) * (l_max + 1);
  for (int64_t l = 0; l < num_layers; ++l) {
    AllegroLayer<T> &layer = layers[l];
    layer.dim_in = read.number();
    layer.dim_out = read.number();
    TORCH_CHECK(layer.dim_in == (l == 0 ? basis : layers[l - 1].dim_out) && layer.dim_out >= 1,
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
    if (layer.latent == Latent::kKan) {
      for (int64_t source = 0; source < l; ++source)
        layer.from.push_back(read.kan_layer(scalars_width, layer.first_width));
      layer.from_scalars = read.kan_layer(channels, layer.first_width);
    } else {
      layer.reads = read.product(channels, layer.first_width);
    }
    widths[l].push_back(layer.computed_width);
    for (size_t d = 0; d + 1 < widths[l].size(); ++d) {
      const int64_t in = widths[l][d], out = widths[l][d + 1];
      if (layer.latent != Latent::kPerceptron)
        layer.kans.push_back(read.kan_layer(in, out));
      else if (d + 2 < widths[l].size())
        layer.hidden.push_back(read.product(in, out));
      else
        layer.last = read.product(in, out);
    }
    if (readout == Readout::kKan) layer.kan = read.pieces(readout_width);
    if (readout == Readout::kKanNetwork)
      layer.to_readout = read.kan_layer(scalars_width, readout_width);
  }
  read.finish();
}

// Where the blocks of a layer's result are; see AllegroLayer.
template <typename T> void AllegroPlan<T>::place_result(int64_t l)
{
  AllegroLayer<T> &layer = layers[l];
  const auto num_layers = static_cast<int64_t>(layers.size());
  int64_t out = l + 1 < num_layers ? weights_width() : 0;
  layer.later_at.assign(num_layers, -1);
  std::vector<int64_t *> copies;
  const auto place = [&](int64_t &at, bool reads_scalars, int64_t width) {
    if (reads_scalars && layer.shared_at >= 0) {
      copies.push_back(&at);
      return;
    }
    if (reads_scalars) layer.shared_at = out;
    at = out;
    out += width;
  };
  for (int64_t later = l + 1; later < num_layers; ++later) {
    const bool kan = layers[later].latent == Latent::kKan;
    place(layer.later_at[later], kan, kan ? scalars_width : layers[later].first_width);
  }
  place(layer.readout_at, readout_reads_scalars(),
        readout_reads_scalars() ? scalars_width : readout_width);
  layer.computed_width = out;
  for (int64_t *at : copies) {
    *at = out;
    layer.copies_at.push_back(out);
    out += scalars_width;
  }
  layer.result_width = out;
  if (layer.first_width == 0) layer.first_width = layer.computed_width;
}

template struct AllegroPlan<float>;
template struct AllegroPlan<double>;

}    // namespace kan_md::ops
