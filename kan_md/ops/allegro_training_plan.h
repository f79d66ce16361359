// Shapes and weights of an Allegro while it is trained, see kan_md/forms/allegro_operator.py.

#ifndef KAN_MD_OPS_ALLEGRO_TRAINING_PLAN_H
#define KAN_MD_OPS_ALLEGRO_TRAINING_PLAN_H

#include "kan_functions.h"
#include "simd.h"

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace kan_md::ops {

// One step of a network: x W, silu(x) W, the sum of the KAN functions of x, in column 0, or all basis
// functions of a KAN layer, for a matrix behind.
enum class StepKind : int64_t { kMatrix = 0, kSiluMatrix = 1, kFunctions = 2, kExpansion = 3 };

template <typename T> struct TrainedStep {
  StepKind kind = StepKind::kMatrix;
  int64_t in = 0, out = 0;
  const T *weight = nullptr;         // [in, out]
  std::vector<Vec<T>> transposed;    // [out, in]
  int64_t place = 0;                 // in the flat array, of the weight or the grid of an expansion
  KanFunctions<T> functions;
  KanLayer<T> expansion;    // without its product

  const T *weight_transposed() const { return reinterpret_cast<const T *>(transposed.data()); }
};

template <typename T> using TrainedNetwork = std::vector<TrainedStep<T>>;

template <typename T> struct TrainedLayer {
  int64_t dim_in = 0, dim_out = 0, num_terms = 0;    // of M[i, k] = sum_j A[j] W[i, j, k]
  const int32_t *program = nullptr;                  // [num_terms, 3] of i, j, k
  const T *terms = nullptr;                          // [num_terms, channels]
  int64_t terms_place = 0;
  TrainedNetwork<T> reads;      // scalars of the tensors to the first sum of the network
  TrainedNetwork<T> network;    // from there to the result
  int64_t sum_width() const { return reads.back().out; }
};

// All widths are padded to whole blocks. Sources of scalars are the pairs (0) and each layer; what
// reads them are each layer's network and the readout. A source's result is
// [weights of tensors (pairs only) | weights of the next environment | blocks for the readers].
template <typename T> struct AllegroTrainingPlan {
  int l_max = 0;
  int64_t channels = 0, radial_width = 0, num_pairs = 0;
  std::vector<TrainedStep<T>> pairs;    // one per pair of types: radial functions to a first sum
  TrainedNetwork<T> radial;             // from there to the result
  std::vector<TrainedLayer<T>> layers;
  TrainedNetwork<T> readout;                     // from the readout's sum to column 0, the energy
  std::vector<std::vector<int64_t>> block_at;    // [source][reader], for readers behind the source
  // [source][reader], from a block to the reader's sum; empty: the block is what is added.
  std::vector<std::vector<TrainedNetwork<T>>> links;
  int64_t readout_width = 0;                         // of its sum
  std::vector<KanFunctions<T>> readout_functions;    // [source], where it begins with functions
  int64_t size = 0;                                  // of the flat array of weights

  AllegroTrainingPlan(const at::Tensor &weights, const at::Tensor &program, c10::IntArrayRef shape);
  int64_t weights_width() const { return (l_max + 1) * channels; }
  const TrainedNetwork<T> &network_of(size_t source) const
  {
    return source == 0 ? radial : layers[source - 1].network;
  }
  int64_t result_width(size_t source) const;
};

extern template struct AllegroTrainingPlan<float>;
extern template struct AllegroTrainingPlan<double>;

}    // namespace kan_md::ops

#endif
