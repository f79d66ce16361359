// Shapes and weights of a MACE with one interaction as kan_md::local_mace takes them; see
// FusedLocalMACE in Python.

#ifndef KAN_MD_OPS_LOCAL_MACE_PLAN_H
#define KAN_MD_OPS_LOCAL_MACE_PLAN_H

#include "plan_reader.h"

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace kan_md::ops {

// What becomes of the densities of an atom: a weighted sum, a perceptron, functions of each, or a KAN
// of several layers; of these, one for all types of atoms or one for each.
enum class Embedding : int64_t {
  kLinear = 0,
  kPerceptron = 1,
  kKan = 2,
  kKanNetwork = 3,
  kKanPerType = 4,
  kKanNetworkPerType = 5
};

template <typename T> struct LocalMacePlan {
  int l_max = 0;
  int64_t channels = 0;     // of the neighbourhood's expansion
  int64_t densities = 0;    // scalars that the embedding reads
  int64_t num_pairs = 0;
  const T *table = nullptr;                // [num_pairs, num_intervals, 6, (l_max + 1) * channels]
  std::vector<IntervalEnds> intervals;     // of every pair
  std::vector<double> cells_per_length;    // [num_pairs], 1/Å
  std::vector<double> inverse_widths;      // [num_pairs, num_intervals], 1/Å
  const int32_t *program = nullptr;        // see polynomial_kernels.h
  const T *coefficients = nullptr;         // [num_types, blocks, num_terms, block]
  int64_t num_terms = 0, num_types = 0;
  Product<T> linear;             // the product basis to the densities
  const T *offsets = nullptr;    // [num_types, densities]
  Embedding embedding = Embedding::kLinear;
  const T *vector = nullptr;         // kLinear, kPerceptron: weights of the last sum
  std::vector<Product<T>> hidden;    // kPerceptron
  // By type, or one for all types:
  std::vector<Pieces<T>> pieces;    // kKan, kKanPerType
  std::vector<std::vector<KanLayer<T>>>
      kans;                   // networks; the last layer's column 0 is the energy
  int64_t widest = 0;         // of what the embedding computes on its way
  int64_t longest_row = 0;    // of a KAN layer's basis functions

  LocalMacePlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape);
  int64_t functions() const { return (l_max + 1) * channels; }
  bool per_type() const { return embedding >= Embedding::kKanPerType; }
};

extern template struct LocalMacePlan<float>;
extern template struct LocalMacePlan<double>;

}    // namespace kan_md::ops

#endif
