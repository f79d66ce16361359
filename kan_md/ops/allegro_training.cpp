// A whole Allegro while it is trained: energies and gradients, and the derivative of those.
//
// The steps are those of kan_md/ops/allegro.cpp, for the edges of a few centres at a time, whose numbers
// stay in the second-level cache. Radial functions and harmonics of the edges come from outside.
//
// What a loss L in energies and gradients needs follows from the same reverse pass over dual numbers:
// with e_c = dL/dE_c and v = dL/d(dE/dx),
//
//   dL/dtheta = d/d eps [grad_theta sum_c (1 + eps e_c) E_c(x + eps v; theta)]   at eps = 0,
//
// and dL/dx likewise. So there is one source for both passes, templated on the kind of number. Nothing
// is kept from the first pass for the second.
//
// Sums over edges are taken in parts that depend on the number of edges alone, so the bits of a
// gradient do not depend on the number of threads.

#include "allegro_training_plan.h"
#include "dense.h"
#include "dual.h"
#include "kan_expansion.h"
#include "kan_functions.h"
#include "lane_sums.h"
#include "ops.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace kan_md::ops {
namespace {

constexpr int64_t kEdgesPerBlock = 64;    // or those of one centre that has more
constexpr int64_t kEdgesPerPart = 1024;
constexpr int64_t kMostParts = 64;
constexpr int kMostL = 4;

// Memory of one block after the other.
class Arena {
 public:
  void reset() { chunk_ = used_ = 0; }

  template <typename U> U *cut(int64_t count)
  {
    const size_t bytes = (count * sizeof(U) + kAlign - 1) / kAlign * kAlign;
    while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size() * kAlign) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) chunks_.emplace_back(std::max(bytes, kChunk) / kAlign);
    used_ += bytes;
    return reinterpret_cast<U *>(reinterpret_cast<char *>(chunks_[chunk_].data()) + used_ - bytes);
  }

 private:
  static constexpr size_t kAlign = 64, kChunk = 1 << 20;
  struct alignas(kAlign) Line {
    char bytes[kAlign];
  };
  std::vector<std::vector<Line>> chunks_;
  size_t chunk_ = 0, used_ = 0;
};

// What is known of the edges, and where results go. Tangents and weight gradients: of dual passes.
template <typename T> struct Edges {
  const int64_t *order, *first, *pair;    // edges sorted by centre and pair; where a centre's begin
  int64_t radial_width, num_centres;
  const T *norm;    // [centres], of environments
  const T *radial, *harmonics, *radial_tangent, *harmonics_tangent, *energy_tangent;
  double *energies;    // of plain passes
  T *radial_grad, *harmonics_grad;
};

// The edges of the centres [begin, end).
template <typename T, int Planes, int L> class Block {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kBasis = (L + 1) * (L + 1);
  typedef Number<T, Planes> N;
  typedef Rows<T, Planes, false> Values;
  typedef Rows<T, Planes, true> Grads;

 public:
  Block(const AllegroTrainingPlan<T> &plan, const Edges<T> &edges, Arena &arena, T *weight_grads,
        int64_t begin, int64_t end) :
      plan_(plan), edges_(edges), arena_(arena), weight_grads_(weight_grads), begin_(begin),
      end_(end), first_(edges.first[begin]), n_(edges.first[end] - first_)
  {
  }

  void run()
  {
    arena_.reset();
    read_edges();
    const size_t num_layers = plan_.layers.size();
    networks_.resize(num_layers + 2);
    reads_.resize(num_layers);
    links_.resize((num_layers + 1) * (num_layers + 1));
    forward_pairs();
    forward(plan_.radial, networks_[0]);
    start_gradient_of(networks_[0]);
    for (size_t l = 0; l < num_layers; ++l) {
      forward_tensors(l);
      reads_[l].values.push_back(scalars_[l]);
      forward(plan_.layers[l].reads, reads_[l]);
      Network &mine = networks_[l + 1];
      mine.values.push_back(reads_[l].values.back());
      for (size_t source = 0; source <= l; ++source) add_source(source, l, mine.values[0]);
      forward(plan_.layers[l].network, mine);
      start_gradient_of(mine);
    }
    forward_readout();
    if constexpr (Planes == 1) store_energies();

    reverse_readout();
    for (size_t l = num_layers; l-- > 0;) {
      const Grads &mine = reverse(plan_.layers[l].network, networks_[l + 1]);
      for (size_t source = 0; source <= l; ++source) add_to_source(mine, source, l);
      reverse_tensors(l, mine);
    }
    reverse_pairs(reverse(plan_.radial, networks_[0]));
    store_harmonics();
  }

 private:
  // Numbers before each step of a network and behind the last, and their gradients. A step that begins
  // with SiLU turns its numbers into the slopes.
  struct Network {
    std::vector<Values> values, inner;    // inner: silu(x) of a matrix, slopes of functions
    std::vector<Grads> grads;
  };

  Values values(int64_t width) { return {arena_.cut<T>(Planes * n_ * width), n_, width}; }
  Grads grads(int64_t width) { return {arena_.cut<T>(Planes * n_ * width), n_, width}; }
  template <typename R> static void clear(const R &rows)
  {
    std::memset(rows.data, 0, sizeof(T) * rows.all() * rows.width);
  }

  void read_edges()
  {
    radial_ = values(plan_.radial_width);
    harmonics_ = values(kBasis);
    clear(radial_);
    for (int64_t e = 0; e < n_; ++e) {
      const int64_t edge = edges_.order[first_ + e];
      const auto copy = [edge](T *to, const T *from, int64_t width) {
        std::memcpy(to, from + edge * width, sizeof(T) * width);
      };
      copy(radial_.value(e, 0), edges_.radial, edges_.radial_width);
      copy(harmonics_.value(e, 0), edges_.harmonics, kBasis);
      if constexpr (Planes == 2) {
        copy(radial_.slope(e, 0), edges_.radial_tangent, edges_.radial_width);
        copy(harmonics_.slope(e, 0), edges_.harmonics_tangent, kBasis);
      }
    }
    harmonics_grad_ = arena_.cut<Vec<T>>(n_ * kBasis);
    std::fill_n(harmonics_grad_, n_ * kBasis, Vec<T>{});
  }

  // body(pair, begin, count) for runs of edges of one pair.
  template <typename Body> void for_each_pair(Body &&body) const
  {
    const int64_t *pair = edges_.pair + first_;
    for (int64_t begin = 0, end = 0; begin < n_; begin = end) {
      while (end < n_ && pair[end] == pair[begin]) ++end;
      body(plan_.pairs[pair[begin]], begin, end - begin);
    }
  }

  void forward_pairs()
  {
    const Values out = values(plan_.pairs[0].out);
    networks_[0].values.push_back(out);
    for_each_pair([&](const TrainedStep<T> &pair, int64_t begin, int64_t count) {
      for (int64_t row = begin; row < radial_.all(); row += n_)
        multiply(count, pair.in, pair.out, radial_.data + row * pair.in, pair.in, pair.weight,
                 pair.out, out.data + row * pair.out, pair.out, false);
    });
  }

  void reverse_pairs(const Grads &out)
  {
    T *result = arena_.cut<T>(n_ * plan_.radial_width);
    for_each_pair([&](const TrainedStep<T> &pair, int64_t begin, int64_t count) {
      multiply(count, pair.out, pair.in, out.data + begin * pair.out, pair.out,
               pair.weight_transposed(), pair.in, result + begin * pair.in, pair.in, false);
      for (int64_t row = begin; weight_grads_ && row < radial_.all(); row += n_)
        add_transposed(pair.in, count, pair.out, radial_.data + row * pair.in, pair.in,
                       out.data + row * pair.out, pair.out, weight_grads_ + pair.place, pair.out);
    });
    for (int64_t e = 0; e < n_; ++e)
      std::memcpy(edges_.radial_grad + edges_.order[first_ + e] * edges_.radial_width,
                  result + e * plan_.radial_width, sizeof(T) * edges_.radial_width);
  }

  void multiply_rows(const TrainedStep<T> &step, const Values &in, const Values &out) const
  {
    multiply(in.all(), step.in, step.out, in.data, in.width, step.weight, step.out, out.data,
             out.width, false);
  }

  // Gradient of what a matrix multiplied, and of the matrix.
  void reverse_rows(const TrainedStep<T> &step, const Values &in, const Grads &out,
                    const Grads &result) const
  {
    multiply(out.all(), step.out, step.in, out.data, out.width, step.weight_transposed(), step.in,
             result.data, result.width, false);
    if constexpr (Planes == 2)
      add_transposed(step.in, out.all(), step.out, in.data, in.width, out.data, out.width,
                     weight_grads_ + step.place, step.out);
  }

  // From values[0] on.
  void forward(const TrainedNetwork<T> &network, Network &mine)
  {
    for (const TrainedStep<T> &step : network) {
      const Values in = mine.values.back(), out = values(step.out);
      mine.values.push_back(out);
      const bool is_inner = step.kind == StepKind::kSiluMatrix || step.kind == StepKind::kFunctions;
      mine.inner.push_back(is_inner ? values(step.in) : in);
      const Values &inner = mine.inner.back();
      if (step.kind == StepKind::kExpansion) {
        expand<T, Planes>(step.expansion, in, out);
        continue;
      }
      if (step.kind == StepKind::kFunctions) {
        clear(out);
        add_functions<T, Planes, false>(step.functions, in, 0, inner, out, {}, nullptr);
        continue;
      }
      if (step.kind == StepKind::kSiluMatrix) apply_silu(in, inner);
      multiply_rows(step, inner, out);
    }
  }

  // Of a network's result, which several readers add to.
  void start_gradient_of(Network &mine)
  {
    mine.grads.assign(1, grads(mine.values.back().width));
    clear(mine.grads[0]);
  }

  // From the gradient of the last numbers to that of the first.
  const Grads &reverse(const TrainedNetwork<T> &network, Network &mine)
  {
    for (size_t k = network.size(); k-- > 0;) {
      const TrainedStep<T> &step = network[k];
      const Grads out = mine.grads.back(), in = grads(step.in);
      mine.grads.push_back(in);
      if (step.kind == StepKind::kExpansion) {
        reverse_expansion<T, Planes>(step.expansion, mine.values[k], out, in,
                                     Planes == 2 ? weight_grads_ + step.place : nullptr);
        continue;
      }
      if (step.kind == StepKind::kFunctions) {
        clear(in);
        reverse_sum(step.functions, mine.values[k], mine.inner[k], out, in);
        continue;
      }
      reverse_rows(step, mine.inner[k], out, in);
      if (step.kind == StepKind::kSiluMatrix)
        for (int64_t e = 0; e < n_; ++e)
          for (int64_t i = 0; i < step.in; i += kLanes)
            in.put(e, i, in.get(e, i) * mine.values[k].get(e, i));
    }
    return mine.grads.back();
  }

  void reverse_sum(const KanFunctions<T> &functions, const Values &x, const Values &slopes,
                   const Grads &out, const Grads &in)
  {
    reverse_functions<T, Planes>(functions, slopes, out, in, 0);
    if constexpr (Planes == 2) {    // once more, for what a second walk gives
      const Values again = values(functions.in), nowhere = values(kLanes);
      clear(nowhere);
      add_functions<T, 2, true>(functions, x, 0, again, nowhere, out,
                                weight_grads_ + functions.place);
    }
  }

  // x becomes the slopes.
  static void apply_silu(const Values &x, const Values &result)
  {
    for (int64_t e = 0; e < x.count; ++e)
      for (int64_t i = 0; i < x.width; i += kLanes) {
        const N z = x.get(e, i);
        const Taylor<T> silu = detail::silu_at<T>(value_of<T, Planes>(z));
        result.put(e, i, with_slope<T, Planes>(silu.f, silu.slope, z));
        x.put(e, i, with_slope<T, Planes>(silu.slope, silu.curve, z));
      }
  }

  // What a source gives to a reader's sum.
  void add_source(size_t source, size_t reader, const Values &sum)
  {
    const Values &from = networks_[source].values.back();
    const int64_t at = plan_.block_at[source][reader];
    const TrainedNetwork<T> &link = plan_.links[source][reader];
    if (link.empty()) return add_block(from, at, sum);
    Network &mine = link_of(source, reader);
    const Values block = values(link.front().in);
    for (int64_t row = 0; row < from.all(); ++row)
      std::copy_n(from.data + row * from.width + at, block.width, block.data + row * block.width);
    mine.values.push_back(block);
    forward(link, mine);
    add_block(mine.values.back(), 0, sum);
  }

  void add_to_source(const Grads &sum, size_t source, size_t reader)
  {
    const Grads &to = networks_[source].grads[0];
    const int64_t at = plan_.block_at[source][reader];
    const TrainedNetwork<T> &link = plan_.links[source][reader];
    if (link.empty()) return add_to_block(sum, to, at);
    Network &mine = link_of(source, reader);
    mine.grads.push_back(sum);
    add_to_block(reverse(link, mine), to, at);
  }

  Network &link_of(size_t source, size_t reader)
  {
    return links_[source * (plan_.layers.size() + 1) + reader];
  }

  static void add_block(const Values &from, int64_t at, const Values &to)
  {
    for (int64_t row = 0; row < from.all(); ++row)
      for (int64_t i = 0; i < to.width; i += kLanes) {
        T *const sum = to.data + row * to.width + i;
        store(sum, load(sum) + load(from.data + row * from.width + at + i));
      }
  }

  static void add_to_block(const Grads &from, const Grads &to, int64_t at)
  {
    for (int64_t row = 0; row < from.all(); ++row)
      for (int64_t i = 0; i < from.width; i += kLanes) {
        T *const sum = to.data + row * to.width + at + i;
        store(sum, load(sum) + load(from.data + row * from.width + i));
      }
  }

  // A readout of functions alone is a sum of their energies, whose gradient is known from the start.
  void forward_readout()
  {
    const size_t reader = plan_.layers.size();
    Network &mine = networks_.back();
    mine.values.push_back(values(plan_.readout_width));
    clear(mine.values[0]);
    if (!plan_.readout_functions.empty()) start_gradient(grads(plan_.readout_width));
    for (size_t source = 0; source <= reader; ++source) {
      if (plan_.readout_functions.empty()) {
        add_source(source, reader, mine.values[0]);
        continue;
      }
      const Values &from = networks_[source].values.back();
      const int64_t at = plan_.block_at[source][reader];
      const KanFunctions<T> &functions = plan_.readout_functions[source];
      const Values slopes = values(functions.in);
      add_functions<T, Planes, Planes == 2>(
          functions, from, at, slopes, mine.values[0], energy_grad_,
          Planes == 2 ? weight_grads_ + functions.place : nullptr);
      reverse_functions<T, Planes>(functions, slopes, energy_grad_, networks_[source].grads[0], at);
    }
    forward(plan_.readout, mine);
  }

  // Of column 0, the energy of an edge.
  void start_gradient(const Grads &grad)
  {
    energy_grad_ = grad;
    clear(grad);
    for_each_edge([&](int64_t centre, int64_t e) {
      *grad.value(e, 0) = 1;
      if constexpr (Planes == 2) *grad.slope(e, 0) = edges_.energy_tangent[centre];
    });
  }

  void reverse_readout()
  {
    if (!plan_.readout_functions.empty()) return;
    const size_t reader = plan_.layers.size();
    networks_.back().grads.push_back(grads(networks_.back().values.back().width));
    start_gradient(networks_.back().grads[0]);
    const Grads &sum = reverse(plan_.readout, networks_.back());
    for (size_t source = 0; source <= reader; ++source) add_to_source(sum, source, reader);
  }

  void store_energies()
  {
    const Values &energy = networks_.back().values.back();
    for_each_edge(
        [&](int64_t centre, int64_t e) { edges_.energies[centre] += *energy.value(e, 0); });
  }

  void store_harmonics()
  {
    for (int64_t e = 0; e < n_; ++e)
      lane_sums<T, kBasis>(harmonics_grad_ + e * kBasis,
                           edges_.harmonics_grad + edges_.order[first_ + e] * kBasis);
  }

  // body(centre, number of the edge)
  template <typename Body> void for_each_edge(Body &&body) const
  {
    for (int64_t centre = begin_; centre < end_; ++centre)
      for (int64_t e = edges_.first[centre]; e < edges_.first[centre + 1]; ++e)
        body(centre, e - first_);
  }

  // Of layer l and one centre, in vectors of channels: the environment, its matrix, and the products
  // chain[back] = M_back ... M_l[., 0].
  struct Tensors {
    N *environment, *matrix, *matrix_grad;
    std::vector<N *> chain;
  };

  int64_t vectors() const { return plan_.channels / kLanes; }
  Tensors &tensors(size_t l, int64_t centre)
  {
    return tensors_[l * (end_ - begin_) + centre - begin_];
  }

  // Where the weights of the environment of layer l are.
  const Values &environment_weights(size_t l) const { return networks_[l].values.back(); }
  int64_t environment_at(size_t l) const { return l == 0 ? plan_.weights_width() : 0; }

  void forward_tensors(size_t l)
  {
    const TrainedLayer<T> &layer = plan_.layers[l];
    const int64_t c = vectors();
    scalars_.push_back(values(plan_.channels));
    for (int64_t centre = begin_; centre < end_; ++centre) {
      tensors_.emplace_back();
      const int64_t first = edges_.first[centre] - first_, last = edges_.first[centre + 1] - first_;
      if (first == last) continue;
      Tensors &mine = tensors_.back();
      mine.environment = arena_.cut<N>(kBasis * c);
      mine.matrix = arena_.cut<N>(layer.dim_in * layer.dim_out * c);
      mine.matrix_grad = arena_.cut<N>(layer.dim_in * layer.dim_out * c);
      std::fill_n(mine.matrix, layer.dim_in * layer.dim_out * c, N{});
      std::fill_n(mine.matrix_grad, layer.dim_in * layer.dim_out * c, N{});
      mine.chain.resize(l + 1);
      for (size_t back = 0; back <= l; ++back)
        mine.chain[back] = arena_.cut<N>(plan_.layers[back].dim_in * c);

      sum_environment(l, centre, first, last, mine.environment);
      for (int64_t n = 0; n < layer.num_terms; ++n) {
        const int32_t *ijk = layer.program + 3 * n;
        for (int64_t v = 0; v < c; ++v)
          mine.matrix[(ijk[0] * layer.dim_out + ijk[2]) * c + v] +=
              scaled(mine.environment[ijk[1] * c + v], load(layer.terms + (n * c + v) * kLanes));
      }
      for (int64_t i = 0; i < layer.dim_in; ++i)
        std::copy_n(mine.matrix + i * layer.dim_out * c, c, mine.chain[l] + i * c);
      for (size_t back = l; back-- > 0;)
        apply_matrix(plan_.layers[back], tensors(back, centre).matrix, mine.chain[back + 1],
                     mine.chain[back]);
      make_scalars(first, last, mine.chain[0], scalars_[l]);
    }
  }

  // A[j] = norm sum_e w[e, l(j)] Y[e, j]
  void sum_environment(size_t l, int64_t centre, int64_t first, int64_t last, N *result) const
  {
    const Values &weights = environment_weights(l);
    const int64_t at = environment_at(l), c = vectors();
    const Vec<T> norm = fill<T>(edges_.norm[centre]);
    for (int64_t v = 0; v < c; ++v) {
      N total[kBasis] = {};
      for (int64_t e = first; e < last; ++e)
        for (int degree = 0; degree <= L; ++degree) {
          const N weight = weights.get(e, at + (degree * c + v) * kLanes);
          for (int j = degree * degree; j < (degree + 1) * (degree + 1); ++j)
            total[j] += weight * harmonics_.broadcast(e, j);
        }
      for (int j = 0; j < kBasis; ++j) result[j * c + v] = scaled(total[j], norm);
    }
  }

  // out[i] = sum_k M[i, k] in[k]
  void apply_matrix(const TrainedLayer<T> &layer, const N *matrix, const N *in, N *out) const
  {
    const int64_t c = vectors();
    for (int64_t i = 0; i < layer.dim_in; ++i)
      for (int64_t v = 0; v < c; ++v) {
        N total{};
        for (int64_t k = 0; k < layer.dim_out; ++k)
          total += matrix[(i * layer.dim_out + k) * c + v] * in[k * c + v];
        out[i * c + v] = total;
      }
  }

  // s[e] = sum_i Y[e, i] w_0[e, l(i)] P[i]
  void make_scalars(int64_t first, int64_t last, const N *chain, const Values &result) const
  {
    const Values &weights = networks_[0].values.back();
    const int64_t c = vectors();
    for (int64_t v = 0; v < c; ++v)
      for (int64_t e = first; e < last; ++e) {
        N scalar{};
        for (int degree = 0; degree <= L; ++degree) {
          N projected{};
          for (int i = degree * degree; i < (degree + 1) * (degree + 1); ++i)
            projected += chain[i * c + v] * harmonics_.broadcast(e, i);
          scalar += projected * weights.get(e, (degree * c + v) * kLanes);
        }
        result.put(e, v * kLanes, scalar);
      }
  }

  void reverse_tensors(size_t l, const Grads &sum)
  {
    const TrainedLayer<T> &layer = plan_.layers[l];
    const int64_t c = vectors();
    reads_[l].grads.push_back(sum);
    const Grads scalars_grad = reverse(layer.reads, reads_[l]);
    int64_t most = 0;
    for (size_t back = 0; back <= l; ++back) most = std::max(most, plan_.layers[back].dim_in);
    N *chain_grad = arena_.cut<N>(most * c), *next = arena_.cut<N>(most * c);
    N *environment_grad = arena_.cut<N>(kBasis * c);
    for (int64_t centre = begin_; centre < end_; ++centre) {
      const int64_t first = edges_.first[centre] - first_, last = edges_.first[centre + 1] - first_;
      if (first == last) continue;
      Tensors &mine = tensors(l, centre);
      reverse_scalars(first, last, mine.chain[0], scalars_grad, chain_grad);
      for (size_t back = 0; back < l; ++back) {    // P_l = M_1 ... M_{l-1} M_l[., 0] from the left
        Tensors &other = tensors(back, centre);
        reverse_matrix(plan_.layers[back], other.matrix, mine.chain[back + 1], chain_grad,
                       other.matrix_grad, next);
        std::swap(chain_grad, next);
      }
      for (int64_t i = 0; i < layer.dim_in; ++i)
        for (int64_t v = 0; v < c; ++v)
          mine.matrix_grad[i * layer.dim_out * c + v] += chain_grad[i * c + v];
      std::fill_n(environment_grad, kBasis * c, N{});
      for (int64_t n = 0; n < layer.num_terms; ++n) {
        const int32_t *ijk = layer.program + 3 * n;
        for (int64_t v = 0; v < c; ++v) {
          const N grad = mine.matrix_grad[(ijk[0] * layer.dim_out + ijk[2]) * c + v];
          const int64_t at = (n * c + v) * kLanes;
          environment_grad[ijk[1] * c + v] += scaled(grad, load(layer.terms + at));
          if constexpr (Planes == 2) {
            T *const sum = weight_grads_ + layer.terms_place + at;
            store(sum, load(sum) + (grad * mine.environment[ijk[1] * c + v]).slope);
          }
        }
      }
      reverse_environment(l, centre, first, last, environment_grad);
    }
  }

  void reverse_scalars(int64_t first, int64_t last, const N *chain, const Grads &scalars_grad,
                       N *chain_grad)
  {
    const Values &weights = networks_[0].values.back();
    const Grads &weights_grad = networks_[0].grads[0];
    const int64_t c = vectors();
    for (int64_t v = 0; v < c; ++v) {
      N total[kBasis] = {};
      for (int64_t e = first; e < last; ++e) {
        const N grad = scalars_grad.get(e, v * kLanes);
        Vec<T> *const harmonics_grad = harmonics_grad_ + e * kBasis;
        for (int degree = 0; degree <= L; ++degree) {
          const int64_t at = (degree * c + v) * kLanes;
          const N weighted = weights.get(e, at) * grad;
          N projected{};
          for (int i = degree * degree; i < (degree + 1) * (degree + 1); ++i) {
            const N y = harmonics_.broadcast(e, i), p = chain[i * c + v];
            total[i] += weighted * y;
            projected += p * y;
            harmonics_grad[i] += result_of<T, Planes>(weighted * p);
          }
          weights_grad.add(e, at, projected * grad);
        }
      }
      for (int i = 0; i < kBasis; ++i) chain_grad[i * c + v] = total[i];
    }
  }

  // matrix_grad[i, k] += out_grad[i] in[k];  in_grad[k] = sum_i M[i, k] out_grad[i]
  void reverse_matrix(const TrainedLayer<T> &layer, const N *matrix, const N *in, const N *out_grad,
                      N *matrix_grad, N *in_grad) const
  {
    const int64_t c = vectors();
    for (int64_t k = 0; k < layer.dim_out; ++k)
      for (int64_t v = 0; v < c; ++v) {
        N total{};
        for (int64_t i = 0; i < layer.dim_in; ++i) {
          const int64_t at = (i * layer.dim_out + k) * c + v;
          total += matrix[at] * out_grad[i * c + v];
          matrix_grad[at] += in[k * c + v] * out_grad[i * c + v];
        }
        in_grad[k * c + v] = total;
      }
  }

  void reverse_environment(size_t l, int64_t centre, int64_t first, int64_t last,
                           const N *environment_grad)
  {
    const Values &weights = environment_weights(l);
    const Grads &weights_grad = networks_[l].grads[0];
    const int64_t at = environment_at(l), c = vectors();
    const Vec<T> norm = fill<T>(edges_.norm[centre]);
    for (int64_t v = 0; v < c; ++v) {
      N grad[kBasis];
      for (int j = 0; j < kBasis; ++j) grad[j] = scaled(environment_grad[j * c + v], norm);
      for (int64_t e = first; e < last; ++e) {
        Vec<T> *const harmonics_grad = harmonics_grad_ + e * kBasis;
        for (int degree = 0; degree <= L; ++degree) {
          const int64_t place = at + (degree * c + v) * kLanes;
          const N weight = weights.get(e, place);
          N weight_grad{};
          for (int j = degree * degree; j < (degree + 1) * (degree + 1); ++j) {
            weight_grad += grad[j] * harmonics_.broadcast(e, j);
            harmonics_grad[j] += result_of<T, Planes>(weight * grad[j]);
          }
          weights_grad.put(e, place, weight_grad);
        }
      }
    }
  }

  const AllegroTrainingPlan<T> &plan_;
  const Edges<T> &edges_;
  Arena &arena_;
  T *const weight_grads_;
  const int64_t begin_, end_, first_, n_;
  Values radial_, harmonics_;
  Grads energy_grad_;
  Vec<T> *harmonics_grad_ = nullptr;
  std::vector<Network> networks_;    // of the pairs, of each layer, of the readout
  std::vector<Network> reads_;       // from the scalars of each layer's tensors to its sum
  std::vector<Network> links_;       // [source][reader]
  std::vector<Values> scalars_;      // of the tensors, per layer
  std::vector<Tensors> tensors_;     // [layer][centre]
};

// The first centre whose edges begin at `edge` or behind.
int64_t centre_from(const int64_t *first, int64_t num_centres, int64_t edge)
{
  return std::lower_bound(first, first + num_centres, edge) - first;
}

// Returns the gradient of the flat weights, in dual passes.
template <typename T, int Planes, int L>
void run(const AllegroTrainingPlan<T> &plan, const Edges<T> &edges, T *weight_grads)
{
  const int64_t num_edges = edges.first[edges.num_centres];
  const int64_t parts = std::clamp<int64_t>(num_edges / kEdgesPerPart, 1, kMostParts);
  std::vector<Vec<T>> sums(Planes == 2 ? parts * plan.size / Simd<T>::kLanes : 0);
  T *const part_grads = reinterpret_cast<T *>(sums.data());
  in_parallel_parts(at::get_num_threads(), parts, [&](int64_t begin_part, int64_t end_part) {
    Arena arena;
    for (int64_t part = begin_part; part < end_part; ++part) {
      T *const mine = Planes == 2 ? part_grads + part * plan.size : nullptr;
      const int64_t last = part + 1 == parts ? edges.num_centres
                                             : centre_from(edges.first, edges.num_centres,
                                                           num_edges * (part + 1) / parts);
      int64_t begin = centre_from(edges.first, edges.num_centres, num_edges * part / parts);
      while (begin < last) {
        int64_t end = begin + 1;
        while (end < last && edges.first[end + 1] - edges.first[begin] <= kEdgesPerBlock) ++end;
        if (edges.first[end] > edges.first[begin])
          Block<T, Planes, L>(plan, edges, arena, mine, begin, end).run();
        begin = end;
      }
    }
  });
  if constexpr (Planes == 2)
    in_parallel_parts(at::get_num_threads(), plan.size / Simd<T>::kLanes,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t v = begin; v < end; ++v) {
                          Vec<T> total{};
                          for (int64_t part = 0; part < parts; ++part)
                            total += sums[part * (plan.size / Simd<T>::kLanes) + v];
                          store(weight_grads + v * Simd<T>::kLanes, total);
                        }
                      });
}

template <typename T, int Planes>
void run(const AllegroTrainingPlan<T> &plan, const Edges<T> &edges, T *weight_grads)
{
  switch (plan.l_max) {
    case 0:
      return run<T, Planes, 0>(plan, edges, weight_grads);
    case 1:
      return run<T, Planes, 1>(plan, edges, weight_grads);
    case 2:
      return run<T, Planes, 2>(plan, edges, weight_grads);
    case 3:
      return run<T, Planes, 3>(plan, edges, weight_grads);
    default:
      return run<T, Planes, kMostL>(plan, edges, weight_grads);
  }
}

// Refuses what does not fit together.
void check(at::TensorList edges, at::TensorList centres, const at::Tensor &order,
           const at::Tensor &first, const at::Tensor &pair, const at::Tensor &weights)
{
  const char *name = "kan_md::allegro_training";
  for (const at::Tensor &index : {order, first, pair})
    TORCH_CHECK(index.scalar_type() == at::kLong && index.dim() == 1 && index.is_contiguous(), name,
                ": indices are int64 [n], got ", index.scalar_type(), " ", index.sizes());
  TORCH_CHECK(first.numel() >= 1 && pair.numel() == order.numel(), name,
              ": first [centres + 1] and a pair for each edge, got ", first.sizes(), " and ",
              pair.sizes());
  const auto check_rows = [&](const at::Tensor &t, int64_t rows) {
    TORCH_CHECK(t.scalar_type() == weights.scalar_type() && t.is_contiguous() && t.dim() >= 1 &&
                    t.size(0) == rows,
                name, ": contiguous tensors of the weights' dtype with ", rows, " rows, got ",
                t.scalar_type(), " ", t.sizes());
  };
  for (const at::Tensor &t : edges) check_rows(t, order.numel());
  for (const at::Tensor &t : centres) check_rows(t, first.numel() - 1);
}

template <typename T>
Edges<T> edges_of(const AllegroTrainingPlan<T> &plan, const at::Tensor &radial,
                  const at::Tensor &harmonics, const at::Tensor &order, const at::Tensor &first,
                  const at::Tensor &pair, const at::Tensor &norm)
{
  const int64_t components = (plan.l_max + 1) * (plan.l_max + 1);
  TORCH_CHECK(plan.l_max <= kMostL && harmonics.size(1) == components &&
                  radial.size(1) <= plan.radial_width,
              "kan_md::allegro_training: harmonics [edges, ", components, "] up to l ", kMostL,
              " and radial [edges, <= ", plan.radial_width, "], got ", harmonics.sizes(), " and ",
              radial.sizes());
  Edges<T> edges{};
  edges.order = order.const_data_ptr<int64_t>();
  edges.first = first.const_data_ptr<int64_t>();
  edges.pair = pair.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < order.numel(); ++e)
    TORCH_CHECK(edges.pair[e] >= 0 && edges.pair[e] < plan.num_pairs && edges.order[e] >= 0 &&
                    edges.order[e] < order.numel(),
                "kan_md::allegro_training: edge ", e,
                " is of a pair or at a place that is not there");
  edges.num_centres = first.numel() - 1;
  edges.radial_width = radial.size(1);
  edges.norm = norm.const_data_ptr<T>();
  edges.radial = radial.const_data_ptr<T>();
  edges.harmonics = harmonics.const_data_ptr<T>();
  return edges;
}

template <typename Call> auto with_dtype(const at::Tensor &weights, Call &&call)
{
  if (weights.scalar_type() == at::kFloat) return call.template operator()<float>();
  TORCH_CHECK(weights.scalar_type() == at::kDouble,
              "kan_md::allegro_training: float32 or float64, got ", weights.scalar_type());
  return call.template operator()<double>();
}

}    // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor>
allegro_training(const at::Tensor &radial, const at::Tensor &harmonics, const at::Tensor &weights,
                 const at::Tensor &order, const at::Tensor &first, const at::Tensor &pair,
                 const at::Tensor &norm, const at::Tensor &program, c10::IntArrayRef shape)
{
  check({radial, harmonics}, {norm}, order, first, pair, weights);
  const at::Tensor energies = at::zeros({norm.size(0)}, norm.options().dtype(at::kDouble));
  const at::Tensor radial_grad = at::empty(radial.sizes(), radial.options());
  const at::Tensor harmonics_grad = at::empty(harmonics.sizes(), harmonics.options());
  with_dtype(weights, [&]<typename T>() {
    const AllegroTrainingPlan<T> plan(weights, program, shape);
    Edges<T> edges = edges_of(plan, radial, harmonics, order, first, pair, norm);
    edges.energies = energies.mutable_data_ptr<double>();
    edges.radial_grad = radial_grad.mutable_data_ptr<T>();
    edges.harmonics_grad = harmonics_grad.mutable_data_ptr<T>();
    run<T, 1>(plan, edges, nullptr);
  });
  return {energies, radial_grad, harmonics_grad};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor>
allegro_training_backward(const at::Tensor &energy_grad, const at::Tensor &radial_tangent,
                          const at::Tensor &harmonics_tangent, const at::Tensor &radial,
                          const at::Tensor &harmonics, const at::Tensor &weights,
                          const at::Tensor &order, const at::Tensor &first, const at::Tensor &pair,
                          const at::Tensor &norm, const at::Tensor &program, c10::IntArrayRef shape)
{
  check({radial, harmonics, radial_tangent, harmonics_tangent}, {norm, energy_grad}, order, first,
        pair, weights);
  TORCH_CHECK(radial_tangent.sizes() == radial.sizes() &&
                  harmonics_tangent.sizes() == harmonics.sizes(),
              "kan_md::allegro_training: tangents are of the shape of their numbers, got ",
              radial_tangent.sizes(), " and ", harmonics_tangent.sizes());
  const at::Tensor radial_grad = at::empty(radial.sizes(), radial.options());
  const at::Tensor harmonics_grad = at::empty(harmonics.sizes(), harmonics.options());
  const at::Tensor weight_grads = at::empty(weights.sizes(), weights.options());
  with_dtype(weights, [&]<typename T>() {
    const AllegroTrainingPlan<T> plan(weights, program, shape);
    Edges<T> edges = edges_of(plan, radial, harmonics, order, first, pair, norm);
    edges.radial_tangent = radial_tangent.const_data_ptr<T>();
    edges.harmonics_tangent = harmonics_tangent.const_data_ptr<T>();
    edges.energy_tangent = energy_grad.const_data_ptr<T>();
    edges.radial_grad = radial_grad.mutable_data_ptr<T>();
    edges.harmonics_grad = harmonics_grad.mutable_data_ptr<T>();
    run<T, 2>(plan, edges, weight_grads.mutable_data_ptr<T>());
  });
  return {radial_grad, harmonics_grad, weight_grads};
}

}    // namespace kan_md::ops
