// Shapes and weights of a whole Allegro as kan_md::allegro takes them; see FusedAllegro in Python.

#ifndef KAN_MD_OPS_ALLEGRO_PLAN_H
#define KAN_MD_OPS_ALLEGRO_PLAN_H

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace kan_md::ops {

// kKan is a sum of functions of every source's own columns, the others add up the columns first.
enum class Readout : int64_t { kSum = 0, kPerceptron = 1, kKan = 2, kProjectedKan = 3 };

// Piecewise polynomials of the inputs of a KAN; no pieces: not there.
template <typename T> struct Pieces {
  const T *pieces = nullptr;
  const T *inverse_step = nullptr;
  int32_t num_pieces = 0;
  int32_t origin = 0;
};

template <typename T> struct Product {
  const T *weight = nullptr;        // [in, out]
  const T *transposed = nullptr;    // [out, in]
  int64_t in = 0, out = 0;
};

template <typename T> struct AllegroLayer {
  int64_t dim_in = 0, dim_out = 0;     // of M_l[i, k]
  const int32_t *program = nullptr;    // [num_terms, 3] of i, j, k
  const T *terms = nullptr;            // [num_terms, channels]
  int64_t num_terms = 0;
  Product<T> reads;                  // scalars of the tensors to the hidden layer
  std::vector<Product<T>> hidden;    // hidden layer to hidden layer
  Product<T> last;                   // to [environment | one block per later layer | readout]
  std::vector<int64_t> later_at;     // where the block of layer l starts in the result of last
  int64_t readout_at = 0;
  Pieces<T> kan;
};

template <typename T> struct AllegroPlan {
  int l_max = 0;
  int64_t channels = 0, num_knots = 0, num_pairs = 0, num_functions = 0;
  Readout readout = Readout::kSum;
  bool folded = false;    // the pair's part of a KAN is one function of r
  int64_t readout_width = 0;
  const T *table = nullptr;    // [num_pairs, num_knots - 1, 6, num_functions]
  const double *cutoffs = nullptr;
  const T *environment_norm = nullptr, *energy_norm = nullptr;    // one, or one per type
  bool environment_norm_per_type = false, energy_norm_per_type = false;
  const T *readout_vector = nullptr;    // [readout_width], kSum and kPerceptron
  Pieces<T> pair_kan;                   // kKan: of what the pair gives, unless folded
  Pieces<T> sum_kan;                    // kProjectedKan
  std::vector<AllegroLayer<T>> layers;
  // Columns of the table: tensor weights, weights of the first environment, one block per layer.
  std::vector<int64_t> known_at;
  int64_t environment_at = 0, readout_at = 0;

  AllegroPlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape);
  int64_t weights_width() const { return (l_max + 1) * channels; }
};

extern template struct AllegroPlan<float>;
extern template struct AllegroPlan<double>;

}    // namespace kan_md::ops

#endif
