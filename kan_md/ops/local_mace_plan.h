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
// of several layers; of these, one for all types of atoms or one for each. A line and a square root
// of each density, as Finnis and Sinclair have it, are for all types or for each, by their constants.
enum class Embedding : int64_t {
  kLinear = 0,
  kPerceptron = 1,
  kKan = 2,
  kKanNetwork = 3,
  kKanPerType = 4,
  kKanNetworkPerType = 5,
  kFinnisSinclair = 6
};

template <typename T> struct LocalMacePlan {
  int l_max = 0;
  int64_t channels = 0;     // of the neighbourhood's expansion
  int64_t summed = 0;       // channels of the sum over neighbours; as many unless is_factored()
  int64_t densities = 0;    // scalars that the embedding reads
  int64_t num_pairs = 0;
  // Behind the radial functions a block whose first column is an edge's share of the centre's
  // density, where the model divides by it.
  bool has_density = false;
  const T *table = nullptr;                // [num_pairs, num_intervals, 6, row_width()]
  std::vector<IntervalEnds> intervals;     // of every pair
  std::vector<double> cells_per_length;    // [num_pairs], 1/Å
  std::vector<double> inverse_widths;      // [num_pairs, num_intervals], 1/Å
  // For many elements, whose pairs would be too many tables: one table for all of them.
  const T *neighbours = nullptr;       // [num_types, summed], factors of the functions
  std::vector<Product<T>> maps;        // [num_types or 1][l_max + 1], summed to channels
  const int32_t *program = nullptr;    // see polynomial_kernels.h
  const T *coefficients = nullptr;     // [num_types, blocks, num_terms, block]
  int64_t num_terms = 0, num_types = 0;
  Product<T> linear;             // the product basis to the densities
  const T *offsets = nullptr;    // [num_types, densities]
  Embedding embedding = Embedding::kLinear;
  // kLinear, kPerceptron: weights of the last sum; kFinnisSinclair: lines, roots and gains.
  const T *vector = nullptr;
  int64_t vector_of_type = 0;        // from the vector of a type to the next; 0: one for all
  std::vector<Product<T>> hidden;    // kPerceptron
  // By type, or one for all types:
  std::vector<Pieces<T>> pieces;    // kKan, kKanPerType
  std::vector<std::vector<KanLayer<T>>>
      kans;                   // networks; the last layer's column 0 is the energy
  int64_t widest = 0;         // of what the embedding computes on its way
  int64_t longest_row = 0;    // of a KAN layer's basis functions

  LocalMacePlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape);
  int64_t functions() const { return (l_max + 1) * summed; }
  int64_t row_width() const { return functions() + (has_density ? Simd<T>::kBlock : 0); }
  bool is_factored() const { return neighbours != nullptr; }
  // What an edge is told apart by: its pair of types, or its neighbour's type.
  int32_t kind(int64_t centre, int64_t neighbour) const
  {
    if (is_factored()) return static_cast<int32_t>(neighbour);
    return num_pairs > 1 ? static_cast<int32_t>(centre * num_types + neighbour) : 0;
  }
  // Whether there is a KAN for each type.
  bool per_type() const
  {
    return embedding == Embedding::kKanPerType || embedding == Embedding::kKanNetworkPerType;
  }
};

extern template struct LocalMacePlan<float>;
extern template struct LocalMacePlan<double>;

}    // namespace kan_md::ops

#endif
