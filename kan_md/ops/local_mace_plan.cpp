#include "local_mace_plan.h"

#include "polynomial_kernels.h"
#include "spherical_harmonics.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace kan_md::ops {

template <typename T>
LocalMacePlan<T>::LocalMacePlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape)
{
  constexpr const char *kName = "kan_md::local_mace";
  PlanReader<T> read(kName, weights, shape);
  l_max = static_cast<int>(read.number());
  TORCH_CHECK(l_max >= 0 && l_max <= kMaxL, kName, ": l_max up to ", kMaxL, ", got ", l_max);
  channels = read.width();
  densities = read.width();
  // Files of before these features have neither.
  constexpr int64_t kHasDensity = 8, kIsFactored = 16;
  const int64_t features = read.number(), kind = features % kHasDensity;
  TORCH_CHECK(features >= 0 && features < 2 * kIsFactored &&
                  kind <= static_cast<int64_t>(Embedding::kFinnisSinclair),
              kName, ": unknown embedding ", features);
  has_density = features & kHasDensity;
  summed = features & kIsFactored ? read.width() : channels;
  embedding = static_cast<Embedding>(kind);
  std::vector<int64_t> widths{densities};
  for (int64_t left = read.number(); left > 0; --left) widths.push_back(read.width());
  widest = *std::max_element(widths.begin(), widths.end());

  const at::Tensor &rows = read.peek();
  TORCH_CHECK(rows.dim() == 4 && rows.size(0) >= 1 && rows.size(1) >= 1, kName,
              ": table must be [num_pairs, intervals, 6, functions], got ", rows.sizes());
  num_pairs = rows.size(0);
  const int64_t num_intervals = rows.size(1);
  table = read.template tensor<T>({num_pairs, num_intervals, 6, row_width()});
  intervals = read.intervals(num_pairs, num_intervals);
  // So that no edge divides.
  for (const IntervalEnds &pair : intervals) {
    cells_per_length.push_back(static_cast<double>(pair.num_cells) / pair.ends[num_intervals]);
    for (int64_t n = 0; n < num_intervals; ++n)
      inverse_widths.push_back(1.0 / (pair.ends[n + 1] - pair.ends[n]));
  }
  if (features & kIsFactored) {
    TORCH_CHECK(num_pairs == 1, kName, ": factors by type belong to one table, got ", num_pairs);
    num_types = read.peek().size(0);
    neighbours = read.template tensor<T>({num_types, summed});
    const int64_t num_maps = read.number();
    TORCH_CHECK(num_maps == 1 || num_maps == num_types, kName, ": maps of ", num_maps, " of ",
                num_types, " types");
    for (int64_t n = 0; n < num_maps * (l_max + 1); ++n)
      maps.push_back(read.product(summed, channels));
  }
  const at::Tensor &code = read.peek();
  program = read.template tensor<int32_t>({code.numel()});
  const at::Tensor &terms = read.peek();
  const int64_t block = kBlockBytes / static_cast<int64_t>(sizeof(T));
  TORCH_CHECK(terms.dim() == 4, kName, ": coefficients must be [num_types, blocks, terms, block]");
  TORCH_CHECK(!is_factored() || terms.size(0) == num_types, kName,
              ": factors and coefficients of different types");
  num_types = terms.size(0);
  num_terms = terms.size(2);
  coefficients = read.template tensor<T>({num_types, channels / block, num_terms, block});
  check_program(kName, code, 1, (l_max + 1) * (l_max + 1), num_terms);
  linear = read.product(channels, densities);
  offsets = read.template tensor<T>({num_types, densities});
  switch (embedding) {
    case Embedding::kKan:
    case Embedding::kKanPerType:
      for (int64_t left = per_type() ? num_types : 1; left > 0; --left)
        pieces.push_back(read.pieces(densities));
      break;
    case Embedding::kKanNetwork:
    case Embedding::kKanNetworkPerType:
      TORCH_CHECK(widths.size() > 1, kName, ": a network without layers");
      kans.resize(per_type() ? num_types : 1);
      for (std::vector<KanLayer<T>> &layers : kans)
        for (size_t d = 0; d + 1 < widths.size(); ++d) {
          layers.push_back(read.kan_layer(widths[d], widths[d + 1]));
          longest_row = std::max(longest_row, layers.back().product.in);
        }
      break;
    case Embedding::kFinnisSinclair: {
      const int64_t rows = read.peek().size(0);
      TORCH_CHECK(rows == 1 || rows == num_types, kName, ": constants of ", rows, " of ", num_types,
                  " types");
      vector = read.template tensor<T>({rows, 3, densities});
      vector_of_type = rows > 1 ? 3 * densities : 0;
      break;
    }
    default:
      TORCH_CHECK(embedding == Embedding::kPerceptron || widths.size() == 1, kName,
                  ": a weighted sum has no hidden layers");
      for (size_t d = 0; d + 1 < widths.size(); ++d)
        hidden.push_back(read.product(widths[d], widths[d + 1]));
      if (embedding == Embedding::kLinear && read.peek().dim() == 2) {
        vector = read.template tensor<T>({num_types, densities});
        vector_of_type = densities;
      } else {
        vector = read.template tensor<T>({widths.back()});
      }
  }
  read.finish();
  TORCH_CHECK(num_pairs == 1 || num_pairs == num_types * num_types, kName, ": tables for ",
              num_pairs, " pairs of ", num_types, " types");
}

template struct LocalMacePlan<float>;
template struct LocalMacePlan<double>;

}    // namespace kan_md::ops
