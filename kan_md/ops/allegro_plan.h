// Shapes and weights of a whole Allegro as kan_md::allegro takes them; see FusedAllegro in Python.

#ifndef KAN_MD_OPS_ALLEGRO_PLAN_H
#define KAN_MD_OPS_ALLEGRO_PLAN_H

#include "plan_reader.h"

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace kan_md::ops {

// kKan and kKanNetwork begin with functions of every source's own scalars, the others add up columns
// of all sources. The networks are KANs of several layers.
enum class Readout : int64_t {
  kSum = 0,
  kPerceptron = 1,
  kKan = 2,
  kProjectedKan = 3,
  kKanNetwork = 4,
  kProjectedKanNetwork = 5
};

// Networks behind the tensor products. kKan begins with functions of every source's own scalars, the
// others with the sum of linear maps of all sources.
enum class Latent : int64_t { kPerceptron = 0, kKan = 1, kProjectedKan = 2 };

template <typename T> struct AllegroLayer {
  int64_t dim_in = 0, dim_out = 0;     // of M_l[i, k]
  const int32_t *program = nullptr;    // [num_terms, 3] of i, j, k
  const T *terms = nullptr;            // [num_terms, channels]
  int64_t num_terms = 0;
  Latent latent = Latent::kPerceptron;
  int64_t first_width = 0;           // of the sum over all sources
  Product<T> reads;                  // scalars of the tensors to that sum; but for kKan
  std::vector<Product<T>> hidden;    // kPerceptron: hidden layer to hidden layer
  Product<T> last;                   // kPerceptron: to the result
  std::vector<KanLayer<T>> from;     // kKan: scalars of an earlier layer to the sum
  KanLayer<T> from_scalars;          // kKan: scalars of the tensors to the sum
  std::vector<KanLayer<T>> kans;     // from the sum to the result; none: it is the result
  // Result: [environment | one block per later layer | readout]. Readers that begin with functions
  // take the same scalars: the network computes one block, and copies for the others follow.
  int64_t computed_width = 0, result_width = 0;
  std::vector<int64_t> later_at;    // where the block of layer l starts
  int64_t readout_at = 0;
  int64_t shared_at = -1;
  std::vector<int64_t> copies_at;
  Pieces<T> kan;             // kKan readout
  KanLayer<T> to_readout;    // kKanNetwork readout
};

template <typename T> struct AllegroPlan {
  int l_max = 0;
  int64_t channels = 0, scalars_width = 0, num_pairs = 0, num_functions = 0;
  Readout readout = Readout::kSum;
  bool folded = false;    // the pair's part of a KAN is one function of r
  int64_t readout_width = 0;
  const T *table = nullptr;               // [num_pairs, num_intervals, 6, num_functions]
  std::vector<IntervalEnds> intervals;    // of every pair
  const T *environment_norm = nullptr, *energy_norm = nullptr;    // one, or one per type
  bool environment_norm_per_type = false, energy_norm_per_type = false;
  const T *readout_vector = nullptr;         // [last width], kSum and kPerceptron
  std::vector<Product<T>> readout_hidden;    // kPerceptron: hidden layer to hidden layer
  Pieces<T> pair_kan;                        // kKan: of what the pair gives, unless folded
  Pieces<T> sum_kan;                         // kProjectedKan
  std::vector<KanLayer<T>> readout_kans;     // of a network, from the sum to the edge's energy
  std::vector<AllegroLayer<T>> layers;
  // Columns of the table: tensor weights, weights of the first environment, one block per layer.
  std::vector<int64_t> known_at;
  int64_t environment_at = 0, readout_at = 0;

  AllegroPlan(const std::vector<at::Tensor> &weights, c10::IntArrayRef shape);
  bool readout_reads_scalars() const
  {
    return readout == Readout::kKan || readout == Readout::kKanNetwork;
  }
  bool readout_is_kan_network() const
  {
    return readout == Readout::kKanNetwork || readout == Readout::kProjectedKanNetwork;
  }
  int64_t weights_width() const { return (l_max + 1) * channels; }

 private:
  void place_result(int64_t l);
};

extern template struct AllegroPlan<float>;
extern template struct AllegroPlan<double>;

}    // namespace kan_md::ops

#endif
