// A whole Allegro, energies and their derivatives, one centre after the other.
//
// Allegro is strictly local: the energy of a centre depends on its own edges only. So everything
// about one centre is computed in a row while it is in the cache, forward and reverse, and what is
// written to memory is one energy per centre and one gradient per edge. In the notation of
// deploy/passes/centre_factored.py, for the edges e of a centre c:
//
//   radial functions of r_e            w_0, w_1, x_l, readout       (one table, columns side by side)
//   environment of layer l             A_l[j]   = n_c sum_e w_l[e, l(j)] Y[e, j]
//   its matrix                         M_l[i,k] = sum_j A_l[j] W_l[i, j, k]      (sparse in i, j, k)
//   chain                              P_l      = M_1 ... M_{l-1} M_l[., 0]
//   scalars                            s_l[e]   = sum_i Y[e, i] w_0[e, l(i)] P_l[i]
//   latent network                     h_l = x_l + sum of earlier layers + s_l R_l, then SiLU, ...
//   result                             (w_{l+1}, contributions to h_{l+2} ..., readout)
//
// The first map of a KAN is not linear: h_l = x_l(r) + f_l(scalars of each earlier layer) + f_l(s_l).
// Its last one is multiplied out with what follows: it computes the result.
//
// All per channel, channels in vectors. The reverse pass walks the same steps backwards.

#include "activation.h"
#include "allegro_plan.h"
#include "dense.h"
#include "neighbours.h"
#include "ops.h"
#include "piecewise.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace kan_md::ops {
namespace {

// What one thread needs for the centre with the most edges; cut from one aligned piece of memory.
template <typename T> class Workspace {
 public:
  explicit Workspace(const AllegroPlan<T> &plan, int64_t most)
  {
    const int64_t basis = (plan.l_max + 1) * (plan.l_max + 1), c = plan.channels;
    const size_t num_layers = plan.layers.size();
    for (int pass = 0; pass < 2; ++pass) {    // first measure, then cut
      used_ = 0;
      functions = cut(most * plan.num_functions);
      functions_grad = cut(most * plan.num_functions);
      harmonics_grad = cut(most * basis * Simd<T>::kLanes);
      readout = cut(most * plan.readout_width);
      readout_grad = cut(most * plan.readout_width);
      scalars = cut(most * c);
      edge_energy = cut(most);
      int64_t widest = 0, largest = 0, longest_row = 0;
      const auto measure = [&](const KanLayer<T> &kan) {
        longest_row = std::max(longest_row, kan.product.in);
      };
      layers.resize(num_layers);
      for (size_t l = 0; l < num_layers; ++l) {
        const AllegroLayer<T> &layer = plan.layers[l];
        Layer &mine = layers[l];
        mine.environment = cut(basis * c);
        mine.matrix = cut(layer.dim_in * layer.dim_out * c);
        mine.matrix_grad = cut(layer.dim_in * layer.dim_out * c);
        mine.chain.resize(l + 1);
        for (size_t back = 0; back <= l; ++back)
          mine.chain[back] = cut(plan.layers[back].dim_in * c);
        mine.result = cut(most * layer.result_width);
        mine.inner.clear();
        const auto keep = [&](int64_t width) {
          mine.inner.push_back(cut(most * width));
          widest = std::max(widest, width);
        };
        if (layer.latent == Latent::kPerceptron || !layer.kans.empty()) keep(layer.first_width);
        for (const Product<T> &hidden : layer.hidden) keep(hidden.out);
        for (size_t d = 0; d + 1 < layer.kans.size(); ++d) keep(layer.kans[d].product.out);
        for (const KanLayer<T> &kan : layer.from) measure(kan);
        measure(layer.from_scalars);
        measure(layer.to_readout);
        for (const KanLayer<T> &kan : layer.kans) measure(kan);
        largest = std::max(largest, layer.dim_in);
      }
      readout_inner.clear();
      const auto keep_readout = [&](int64_t width) {
        readout_inner.push_back(cut(most * width));
        widest = std::max(widest, width);
      };
      for (const KanLayer<T> &kan : plan.readout_kans) {
        keep_readout(kan.product.out);
        measure(kan);
      }
      for (const Product<T> &hidden : plan.readout_hidden) keep_readout(hidden.out);
      widest = std::max(widest, plan.readout_width);
      active = cut(most * widest);
      kan_rows = cut(std::min(most, kEdgesTogether) * longest_row);
      environment_grad = cut(basis * c);
      chain_grad = cut(largest * c);
      chain_next = cut(largest * c);
      if (pass == 0) {
        memory_.reset(static_cast<T *>(::operator new(used_ * sizeof(T), kAlign)));
      }
    }
  }

  struct Layer {
    T *environment, *matrix, *matrix_grad, *result;
    std::vector<T *> chain;    // [back] is M_back ... M_l[., 0]
    std::vector<T *> inner;    // between maps of the latent network: values, then gradients
  };
  T *functions, *functions_grad, *harmonics_grad, *readout, *readout_grad, *scalars, *edge_energy;
  T *active, *kan_rows, *environment_grad, *chain_grad, *chain_next;
  std::vector<T *>
      readout_inner;    // behind each layer of a readout network: values, then gradients
  std::vector<Layer> layers;
  std::vector<const T *> rows;
  std::vector<T> place;

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Release {
    void operator()(T *p) const { ::operator delete(p, kAlign); }
  };
  T *cut(int64_t size)
  {
    T *const start = memory_ ? memory_.get() + used_ : nullptr;
    used_ += (size + 15) / 16 * 16;
    return start;
  }
  std::unique_ptr<T, Release> memory_;
  int64_t used_ = 0;
};

// One thread's work on one centre.
template <typename T, int L> class Centre {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kBasis = (L + 1) * (L + 1);

 public:
  Centre(const AllegroPlan<T> &plan, Workspace<T> &work) : plan_(plan), work_(work) {}

  // Energy of a centre; dE/dY to angular [n, basis] and dE/dr to radial [n].
  double run(int64_t n, int64_t type, const T *harmonics, T *angular, T *radial)
  {
    n_ = n;
    y_ = harmonics;
    environment_norm_ = plan_.environment_norm[plan_.environment_norm_per_type ? type : 0];
    energy_norm_ = plan_.energy_norm[plan_.energy_norm_per_type ? type : 0];
    interpolate();
    start_readout();
    for (size_t l = 0; l < plan_.layers.size(); ++l) forward(l);
    finish_readout();
    for (int64_t e = 0; e < n; ++e)    // the tensor weights' gradient is a sum over layers
      std::memset(work_.functions_grad + e * plan_.num_functions, 0,
                  sizeof(T) * plan_.weights_width());
    std::memset(work_.harmonics_grad, 0, sizeof(T) * n * kBasis * kLanes);
    for (size_t l = 0; l < plan_.layers.size(); ++l)
      std::memset(work_.layers[l].matrix_grad, 0,
                  sizeof(T) * plan_.layers[l].dim_in * plan_.layers[l].dim_out * plan_.channels);
    for (size_t l = plan_.layers.size(); l-- > 0;) reverse(l);
    for (int64_t e = 0; e < n; ++e)
      for (int i = 0; i < kBasis; ++i)
        angular[e * kBasis + i] = sum<T>(load(work_.harmonics_grad + (e * kBasis + i) * kLanes));
    slopes(radial);
    double total = 0;
    for (int64_t e = 0; e < n; ++e) total += work_.edge_energy[e];
    return total * energy_norm_;
  }

 private:
  const T *environment_weights(size_t l, int64_t &stride) const
  {
    if (l == 0) {
      stride = plan_.num_functions;
      return work_.functions + plan_.environment_at;
    }
    stride = plan_.layers[l - 1].result_width;
    return work_.layers[l - 1].result;
  }

  // Values of all radial functions; rows and places are in the workspace.
  void interpolate()
  {
    const int64_t width = plan_.num_functions;
    for (int64_t e = 0; e < n_; ++e) {
      T *out = work_.functions + e * width;
      const T *row = work_.rows[e];
      if (!row) {
        std::memset(out, 0, sizeof(T) * width);
        continue;
      }
      const T t = work_.place[e];
      for (int64_t f = 0; f < width; f += kLanes) {
        const Vec<T> value = quintic<Vec<T>>(t, [&](int power) __attribute__((always_inline)) {
          return load(row + power * width + f);
        });
        store(out + f, value);
      }
    }
  }

  // dE/dr [n] from the gradient by all radial functions; work_.place holds the places still.
  void slopes(T *radial)
  {
    const int64_t width = plan_.num_functions;
    for (int64_t e = 0; e < n_; ++e) {
      const T *row = work_.rows[e];
      radial[e] = 0;
      if (!row) continue;
      const T *grad = work_.functions_grad + e * width;
      const T t = work_.place[e];
      Vec<T> total{};
      for (int64_t f = 0; f < width; f += kLanes) {
        Vec<T> slope;
        quintic<Vec<T>>(
            t,
            [&](int power) __attribute__((always_inline)) { return load(row + power * width + f); },
            slope);
        total += slope * load(grad + f);
      }
      radial[e] = sum<T>(total);
    }
  }

  // What the pair alone gives to the readout; its gradient where that is known already.
  void start_readout()
  {
    const int64_t width = plan_.num_functions, at = plan_.readout_at;
    for (int64_t e = 0; e < n_; ++e) {
      T *mine = work_.functions + e * width + at;
      T *grad = work_.functions_grad + e * width + at;
      work_.edge_energy[e] = 0;
      if (plan_.readout != Readout::kKan) {
        std::memcpy(work_.readout + e * plan_.readout_width, mine, sizeof(T) * plan_.readout_width);
      } else if (plan_.folded) {
        std::memset(grad, 0, sizeof(T) * (width - at));
        work_.edge_energy[e] = mine[0];
        grad[0] = energy_norm_;
      } else {
        work_.edge_energy[e] = kan(plan_.pair_kan, mine, grad);
      }
    }
  }

  // Sum of functions of x; grad becomes dE/dx and may be x.
  T kan(const Pieces<T> &functions, const T *x, T *grad) const
  {
    const T value = piecewise_row(plan_.readout_width, x, functions, grad);
    for (int64_t i = 0; i < plan_.readout_width; ++i) grad[i] *= energy_norm_;
    return value;
  }

  // Energies of the edges and their gradient by the summed columns.
  void finish_readout()
  {
    if (plan_.readout == Readout::kKan) return;
    if (plan_.readout == Readout::kProjectedKan)
      for (int64_t e = 0; e < n_; ++e) {
        const int64_t at = e * plan_.readout_width;
        work_.edge_energy[e] = kan(plan_.sum_kan, work_.readout + at, work_.readout_grad + at);
      }
    else if (plan_.readout_is_kan_network())
      finish_kan_network();
    else
      finish_perceptron();
    copy_rows(work_.readout_grad, plan_.readout_width, work_.functions_grad + plan_.readout_at,
              plan_.num_functions, plan_.readout_width);
  }

  // The last layer's first column is the edge's energy.
  void finish_kan_network()
  {
    const T *in = work_.readout;
    for (size_t d = 0; d < plan_.readout_kans.size(); ++d) {
      const KanLayer<T> &kan = plan_.readout_kans[d];
      clear({work_.readout_inner[d], kan.product.out}, kan.product.out);
      add_kan(kan, n_, in, kan.in, work_.kan_rows, work_.readout_inner[d], kan.product.out);
      in = work_.readout_inner[d];
    }
    const int64_t width = plan_.readout_kans.back().product.out;
    T *last = work_.readout_inner.back();
    for (int64_t e = 0; e < n_; ++e) work_.edge_energy[e] = last[e * width];
    clear({last, width}, width);
    for (int64_t e = 0; e < n_; ++e) last[e * width] = energy_norm_;
    for (size_t d = plan_.readout_kans.size(); d-- > 0;) {
      const KanLayer<T> &kan = plan_.readout_kans[d];
      T *values = d == 0 ? work_.readout : work_.readout_inner[d - 1];
      reverse_kan(kan, n_, values, kan.in, work_.kan_rows, work_.readout_inner[d], kan.product.out,
                  d == 0 ? work_.readout_grad : values, kan.in);
    }
  }

  // kSum is a perceptron of one map.
  void finish_perceptron()
  {
    const bool active = plan_.readout == Readout::kPerceptron;
    T *last = work_.readout;
    int64_t width = plan_.readout_width;
    for (size_t d = 0; d < plan_.readout_hidden.size(); ++d) {
      silu(n_ * width, last, work_.active);
      product(plan_.readout_hidden[d], work_.active, work_.readout_inner[d], false);
      last = work_.readout_inner[d];
      width = plan_.readout_hidden[d].out;
    }
    T *grad = work_.active;
    for (int64_t e = 0; e < n_; ++e)
      for (int64_t i = 0; i < width; ++i)
        grad[e * width + i] = energy_norm_ * plan_.readout_vector[i];
    if (active) silu_reverse(n_ * width, last, grad);
    if (active) silu(n_ * width, last, last);
    for (int64_t e = 0; e < n_; ++e) {
      T total = 0;
      for (int64_t i = 0; i < width; ++i) total += last[e * width + i] * plan_.readout_vector[i];
      work_.edge_energy[e] = total;
    }
    for (size_t d = plan_.readout_hidden.size(); d-- > 0;) {
      const Product<T> &hidden = plan_.readout_hidden[d];
      std::memcpy(work_.readout_inner[d], grad, sizeof(T) * n_ * hidden.out);
      reverse_product(hidden, work_.readout_inner[d], grad);
      silu_reverse(n_ * hidden.in, d == 0 ? work_.readout : work_.readout_inner[d - 1], grad);
    }
    std::memcpy(work_.readout_grad, grad, sizeof(T) * n_ * plan_.readout_width);
  }

  void forward(size_t l)
  {
    const AllegroLayer<T> &layer = plan_.layers[l];
    typename Workspace<T>::Layer &mine = work_.layers[l];
    sum_environment(l);
    make_matrix(layer, mine);
    const int64_t c = plan_.channels;
    for (int64_t i = 0; i < layer.dim_in; ++i)
      std::memcpy(mine.chain[l] + i * c, mine.matrix + i * layer.dim_out * c, sizeof(T) * c);
    for (size_t back = l; back-- > 0;)
      apply_matrix(plan_.layers[back], work_.layers[back].matrix, mine.chain[back + 1],
                   mine.chain[back]);
    make_scalars(mine.chain[0]);

    sum_sources(l);
    if (layer.latent == Latent::kPerceptron)
      perceptron(layer, mine);
    else
      for (size_t d = 0; d < layer.kans.size(); ++d) {
        const Values out = value_of(layer, mine, d + 1);
        clear(out, layer.kans[d].product.out);
        add_kan(layer.kans[d], n_, mine.inner[d], layer.kans[d].in, work_.kan_rows, out.data,
                out.stride);
      }
    for (const int64_t at : layer.copies_at)
      copy_rows(mine.result + layer.shared_at, layer.result_width, mine.result + at,
                layer.result_width, plan_.scalars_width);

    if (plan_.readout == Readout::kKanNetwork) {
      add_kan(layer.to_readout, n_, mine.result + layer.readout_at, layer.result_width,
              work_.kan_rows, work_.readout, plan_.readout_width);
      return;
    }
    for (int64_t e = 0; e < n_; ++e) {
      T *out = mine.result + e * layer.result_width + layer.readout_at;
      if (plan_.readout == Readout::kKan)
        work_.edge_energy[e] += kan(layer.kan, out, out);
      else
        for (int64_t i = 0; i < plan_.readout_width; ++i)
          work_.readout[e * plan_.readout_width + i] += out[i];
    }
  }

  // Rows of numbers, one per edge.
  struct Values {
    T *data;
    int64_t stride;
  };

  // What comes into map d of a latent network, for d = 0 the sum over the sources; at last, the
  // result.
  Values value_of(const AllegroLayer<T> &layer, const typename Workspace<T>::Layer &mine,
                  size_t d) const
  {
    if (d == mine.inner.size()) return {mine.result, layer.result_width};
    if (d == 0) return {mine.inner[0], layer.first_width};
    return {mine.inner[d], layer.kans[d].in};
  }

  void clear(Values values, int64_t width) const
  {
    for (int64_t e = 0; e < n_; ++e)
      std::memset(values.data + e * values.stride, 0, sizeof(T) * width);
  }

  // What the pair and earlier layers contribute to a latent network, and the tensors' scalars.
  void sum_sources(size_t l)
  {
    const AllegroLayer<T> &layer = plan_.layers[l];
    const Values sum = value_of(layer, work_.layers[l], 0);
    copy_rows(work_.functions + plan_.known_at[l], plan_.num_functions, sum.data, sum.stride,
              layer.first_width);
    for (size_t source = 0; source < l; ++source) {
      const Values from = block_for(source, l);
      if (layer.latent == Latent::kKan)
        add_kan(layer.from[source], n_, from.data, from.stride, work_.kan_rows, sum.data,
                sum.stride);
      else
        add_rows(from.data, from.stride, sum.data, sum.stride, layer.first_width);
    }
    if (layer.latent == Latent::kKan)
      add_kan(layer.from_scalars, n_, work_.scalars, plan_.channels, work_.kan_rows, sum.data,
              sum.stride);
    else
      product(layer.reads, work_.scalars, sum.data, true);
  }

  // The same backwards: blocks of earlier layers and the tensors' scalars turn into their gradients.
  void reverse_sources(size_t l)
  {
    const AllegroLayer<T> &layer = plan_.layers[l];
    const Values grad = value_of(layer, work_.layers[l], 0);
    copy_rows(grad.data, grad.stride, work_.functions_grad + plan_.known_at[l], plan_.num_functions,
              layer.first_width);
    for (size_t source = 0; source < l; ++source) {
      const Values to = block_for(source, l);
      if (layer.latent == Latent::kKan)
        reverse_kan(layer.from[source], n_, to.data, to.stride, work_.kan_rows, grad.data,
                    grad.stride, to.data, to.stride);
      else
        copy_rows(grad.data, grad.stride, to.data, to.stride, layer.first_width);
    }
    if (layer.latent != Latent::kKan) {
      reverse_product(layer.reads, grad.data, work_.scalars);
      return;
    }
    make_scalars(work_.layers[l].chain[0]);    // once more: other layers used their memory
    reverse_kan(layer.from_scalars, n_, work_.scalars, plan_.channels, work_.kan_rows, grad.data,
                grad.stride, work_.scalars, plan_.channels);
  }

  // The block of a layer's result that a later layer reads.
  Values block_for(size_t source, size_t later) const
  {
    const AllegroLayer<T> &layer = plan_.layers[source];
    return {work_.layers[source].result + layer.later_at[later], layer.result_width};
  }

  void perceptron(const AllegroLayer<T> &layer, typename Workspace<T>::Layer &mine)
  {
    for (size_t d = 0; d < layer.hidden.size(); ++d) {
      silu(n_ * layer.hidden[d].in, mine.inner[d], work_.active);
      product(layer.hidden[d], work_.active, mine.inner[d + 1], false);
    }
    silu(n_ * layer.last.in, mine.inner.back(), work_.active);
    const Product<T> &p = layer.last;
    multiply(n_, p.in, p.out, work_.active, p.in, p.weight, p.out, mine.result, layer.result_width,
             false);
  }

  void reverse_perceptron(const AllegroLayer<T> &layer, typename Workspace<T>::Layer &mine)
  {
    const Product<T> &p = layer.last;
    multiply(n_, p.out, p.in, mine.result, layer.result_width, p.transposed, p.in, work_.active,
             p.in, false);
    silu_reverse(n_ * layer.last.in, mine.inner.back(), work_.active);
    std::memcpy(mine.inner.back(), work_.active, sizeof(T) * n_ * layer.last.in);
    for (size_t d = layer.hidden.size(); d-- > 0;) {
      reverse_product(layer.hidden[d], mine.inner[d + 1], work_.active);
      silu_reverse(n_ * layer.hidden[d].in, mine.inner[d], work_.active);
      std::memcpy(mine.inner[d], work_.active, sizeof(T) * n_ * layer.hidden[d].in);
    }
  }

  // The result of a layer turns into its gradient, block by block, and then goes back to the table.
  // Later layers have left the gradients of their blocks already.
  void reverse(size_t l)
  {
    const AllegroLayer<T> &layer = plan_.layers[l];
    typename Workspace<T>::Layer &mine = work_.layers[l];
    const int64_t out = layer.result_width, c = plan_.channels;
    T *to_readout = mine.result + layer.readout_at;
    if (plan_.readout == Readout::kKanNetwork)
      reverse_kan(layer.to_readout, n_, to_readout, out, work_.kan_rows, work_.readout_grad,
                  plan_.readout_width, to_readout, out);
    else if (plan_.readout != Readout::kKan)
      copy_rows(work_.readout_grad, plan_.readout_width, to_readout, out, plan_.readout_width);
    for (const int64_t at : layer.copies_at)
      add_rows(mine.result + at, out, mine.result + layer.shared_at, out, plan_.scalars_width);
    if (layer.latent == Latent::kPerceptron)
      reverse_perceptron(layer, mine);
    else
      for (size_t d = layer.kans.size(); d-- > 0;) {
        const Values grad = value_of(layer, mine, d + 1);
        reverse_kan(layer.kans[d], n_, mine.inner[d], layer.kans[d].in, work_.kan_rows, grad.data,
                    grad.stride, mine.inner[d], layer.kans[d].in);
      }
    reverse_sources(l);
    reverse_scalars(mine.chain[0], work_.chain_grad);

    // P_l = M_1 ... M_{l-1} M_l[., 0], from the left.
    for (size_t back = 0; back < l; ++back) {
      reverse_matrix(plan_.layers[back], work_.layers[back].matrix, mine.chain[back + 1],
                     work_.chain_grad, work_.layers[back].matrix_grad, work_.chain_next);
      std::swap(work_.chain_grad, work_.chain_next);
    }
    for (int64_t i = 0; i < layer.dim_in; ++i)
      for (int64_t v = 0; v < c; v += kLanes) {
        T *at = mine.matrix_grad + i * layer.dim_out * c + v;
        store(at, load(at) + load(work_.chain_grad + i * c + v));
      }
    reverse_make_matrix(layer, mine);
    reverse_environment(l);
  }

  void product(const Product<T> &p, const T *in, T *out, bool add) const
  {
    multiply(n_, p.in, p.out, in, p.in, p.weight, p.out, out, p.out, add);
  }

  void reverse_product(const Product<T> &p, const T *out_grad, T *in_grad) const
  {
    multiply(n_, p.out, p.in, out_grad, p.out, p.transposed, p.in, in_grad, p.in, false);
  }

  void copy_rows(const T *from, int64_t from_stride, T *to, int64_t to_stride, int64_t width) const
  {
    for (int64_t e = 0; e < n_; ++e)
      std::memcpy(to + e * to_stride, from + e * from_stride, sizeof(T) * width);
  }

  void add_rows(const T *from, int64_t from_stride, T *to, int64_t to_stride, int64_t width) const
  {
    for (int64_t e = 0; e < n_; ++e)
      for (int64_t v = 0; v < width; v += kLanes)
        store(to + e * to_stride + v,
              load(to + e * to_stride + v) + load(from + e * from_stride + v));
  }

  void sum_environment(size_t l)
  {
    const int64_t c = plan_.channels;
    int64_t stride;
    const T *weights = environment_weights(l, stride);
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> total[kBasis] = {};
      for (int64_t e = 0; e < n_; ++e) {
        const T *y = y_ + e * kBasis, *w = weights + e * stride + v;
        for (int degree = 0; degree <= L; ++degree) {
          const Vec<T> weight = load(w + degree * c);
          for (int j = degree * degree; j < (degree + 1) * (degree + 1); ++j)
            total[j] += weight * y[j];
        }
      }
      for (int j = 0; j < kBasis; ++j)
        store(work_.layers[l].environment + j * c + v, total[j] * environment_norm_);
    }
  }

  void reverse_environment(size_t l)
  {
    const int64_t c = plan_.channels;
    int64_t stride;
    const T *weights = environment_weights(l, stride);
    T *grads = l == 0 ? work_.functions_grad + plan_.environment_at : work_.layers[l - 1].result;
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> environment_grad[kBasis];
      for (int j = 0; j < kBasis; ++j)
        environment_grad[j] = load(work_.environment_grad + j * c + v) * environment_norm_;
      for (int64_t e = 0; e < n_; ++e) {
        const T *y = y_ + e * kBasis;
        T *y_grad = work_.harmonics_grad + e * kBasis * kLanes;
        for (int degree = 0; degree <= L; ++degree) {
          const int64_t at = e * stride + degree * c + v;
          const Vec<T> weight = load(weights + at);    // read before it is written, see below
          Vec<T> weight_grad{};
          for (int j = degree * degree; j < (degree + 1) * (degree + 1); ++j) {
            weight_grad += environment_grad[j] * y[j];
            store(y_grad + j * kLanes, load(y_grad + j * kLanes) + weight * environment_grad[j]);
          }
          // The weights of a later environment are in the result that turns into its gradient.
          store(grads + at, weight_grad);
        }
      }
    }
  }

  void make_matrix(const AllegroLayer<T> &layer, typename Workspace<T>::Layer &mine) const
  {
    const int64_t c = plan_.channels;
    std::memset(mine.matrix, 0, sizeof(T) * layer.dim_in * layer.dim_out * c);
    for (int64_t n = 0; n < layer.num_terms; ++n) {
      const int32_t *ijk = layer.program + 3 * n;
      T *out = mine.matrix + (ijk[0] * layer.dim_out + ijk[2]) * c;
      const T *in = mine.environment + ijk[1] * c, *w = layer.terms + n * c;
      for (int64_t v = 0; v < c; v += kLanes)
        store(out + v, load(out + v) + load(in + v) * load(w + v));
    }
  }

  void reverse_make_matrix(const AllegroLayer<T> &layer, typename Workspace<T>::Layer &mine) const
  {
    const int64_t c = plan_.channels;
    std::memset(work_.environment_grad, 0, sizeof(T) * kBasis * c);
    for (int64_t n = 0; n < layer.num_terms; ++n) {
      const int32_t *ijk = layer.program + 3 * n;
      const T *grad = mine.matrix_grad + (ijk[0] * layer.dim_out + ijk[2]) * c;
      const T *w = layer.terms + n * c;
      T *in = work_.environment_grad + ijk[1] * c;
      for (int64_t v = 0; v < c; v += kLanes)
        store(in + v, load(in + v) + load(grad + v) * load(w + v));
    }
  }

  // out[i] = sum_k M[i, k] in[k]
  void apply_matrix(const AllegroLayer<T> &layer, const T *matrix, const T *in, T *out) const
  {
    const int64_t c = plan_.channels;
    for (int64_t v = 0; v < c; v += kLanes)
      for (int64_t i = 0; i < layer.dim_in; ++i) {
        Vec<T> total{};
        for (int64_t k = 0; k < layer.dim_out; ++k)
          total += load(matrix + (i * layer.dim_out + k) * c + v) * load(in + k * c + v);
        store(out + i * c + v, total);
      }
  }

  // matrix_grad[i, k] += out_grad[i] in[k];  in_grad[k] = sum_i M[i, k] out_grad[i]
  void reverse_matrix(const AllegroLayer<T> &layer, const T *matrix, const T *in, const T *out_grad,
                      T *matrix_grad, T *in_grad) const
  {
    const int64_t c = plan_.channels;
    for (int64_t v = 0; v < c; v += kLanes)
      for (int64_t k = 0; k < layer.dim_out; ++k) {
        Vec<T> total{};
        for (int64_t i = 0; i < layer.dim_in; ++i) {
          const int64_t at = (i * layer.dim_out + k) * c + v;
          const Vec<T> grad = load(out_grad + i * c + v);
          total += load(matrix + at) * grad;
          store(matrix_grad + at, load(matrix_grad + at) + grad * load(in + k * c + v));
        }
        store(in_grad + k * c + v, total);
      }
  }

  void make_scalars(const T *chain) const
  {
    const int64_t c = plan_.channels;
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> p[kBasis];
      for (int i = 0; i < kBasis; ++i) p[i] = load(chain + i * c + v);
      for (int64_t e = 0; e < n_; ++e) {
        const T *y = y_ + e * kBasis, *w = work_.functions + e * plan_.num_functions + v;
        Vec<T> total{};
        for (int degree = 0; degree <= L; ++degree) {
          Vec<T> part{};
          for (int i = degree * degree; i < (degree + 1) * (degree + 1); ++i) part += p[i] * y[i];
          total += part * load(w + degree * c);
        }
        store(work_.scalars + e * c + v, total);
      }
    }
  }

  void reverse_scalars(const T *chain, T *chain_grad) const
  {
    const int64_t c = plan_.channels;
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> p[kBasis], p_grad[kBasis] = {};
      for (int i = 0; i < kBasis; ++i) p[i] = load(chain + i * c + v);
      for (int64_t e = 0; e < n_; ++e) {
        const T *y = y_ + e * kBasis, *w = work_.functions + e * plan_.num_functions + v;
        T *w_grad = work_.functions_grad + e * plan_.num_functions + v;
        T *y_grad = work_.harmonics_grad + e * kBasis * kLanes;
        const Vec<T> grad = load(work_.scalars + e * c + v);
        for (int degree = 0; degree <= L; ++degree) {
          Vec<T> part{};
          const Vec<T> weighted = grad * load(w + degree * c);
          for (int i = degree * degree; i < (degree + 1) * (degree + 1); ++i) {
            part += p[i] * y[i];
            p_grad[i] += weighted * y[i];
            store(y_grad + i * kLanes, load(y_grad + i * kLanes) + weighted * p[i]);
          }
          store(w_grad + degree * c, load(w_grad + degree * c) + grad * part);
        }
      }
      for (int i = 0; i < kBasis; ++i) store(chain_grad + i * c + v, p_grad[i]);
    }
  }

  const AllegroPlan<T> &plan_;
  Workspace<T> &work_;
  int64_t n_ = 0;
  const T *y_ = nullptr;
  T environment_norm_ = 1, energy_norm_ = 1;
};

// Edges, centres and results of one call.
struct Graph {
  const double *vectors;
  const int64_t *neighbours;
  const int64_t *types;
  int64_t num_types;
  double *energies;
  double *gradient;
};

template <typename T, int L>
void run_part(const AllegroPlan<T> &plan, const Graph &graph, const CentreRanges &ranges, int part,
              T *harmonics, T *angular, T *radial)
{
  constexpr int kBasis = (L + 1) * (L + 1);
  const int64_t begin = ranges.part[part], end = ranges.part[part + 1];
  int64_t most = 0;
  for (int64_t i = begin; i < end; ++i)
    most = std::max(most, ranges.first[i + 1] - ranges.first[i]);
  Workspace<T> work(plan, most);
  work.rows.resize(most);
  work.place.resize(most);
  Centre<T, L> centre(plan, work);
  harmonics_for(L, graph.vectors, ranges.first[begin], ranges.first[end], harmonics);
  std::vector<T> inverse_width(most);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = ranges.first[i], n = ranges.first[i + 1] - first;
    if (n == 0) {
      graph.energies[i] = 0.0;
      continue;
    }
    const int64_t type = graph.num_types > 1 ? graph.types[i] : 0;
    for (int64_t e = 0; e < n; ++e) {
      const double *d = graph.vectors + 3 * (first + e);
      const int64_t other = graph.num_types > 1 ? graph.types[graph.neighbours[first + e]] : 0;
      const int64_t pair = type * graph.num_types + other;
      IntervalPlace place;
      work.rows[e] = nullptr;
      inverse_width[e] = 0;
      if (!plan.intervals[pair].find(std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), place))
        continue;
      work.place[e] = static_cast<T>(place.t);
      inverse_width[e] = static_cast<T>(place.inverse_width);
      work.rows[e] = plan.table + (pair * plan.intervals[pair].num_intervals + place.interval) * 6 *
                                      plan.num_functions;
    }
    graph.energies[i] =
        centre.run(n, type, harmonics + first * kBasis, angular + first * kBasis, radial + first);
    for (int64_t e = 0; e < n; ++e) radial[first + e] *= inverse_width[e];
  }
  gradient_for(L, graph.vectors, angular, radial, ranges.first[begin], ranges.first[end],
               graph.gradient);
}

template <typename T>
void run(const AllegroPlan<T> &plan, const Graph &graph, const CentreRanges &ranges,
         int64_t num_edges, int num_threads)
{
  const int64_t basis = (plan.l_max + 1) * (plan.l_max + 1);
  Scratch<T> harmonics(num_edges * basis), angular(num_edges * basis), radial(num_edges);
  in_parallel(num_threads, [&](int thread, int threads) {
    // The runtime may grant fewer threads than there are parts.
    for (int k = thread; k < num_threads; k += threads) {
      const auto part = [&](auto l_max) {
        run_part<T, decltype(l_max)::value>(plan, graph, ranges, k, harmonics.get(), angular.get(),
                                            radial.get());
      };
      switch (plan.l_max) {
        case 0:
          part(std::integral_constant<int, 0>{});
          break;
        case 1:
          part(std::integral_constant<int, 1>{});
          break;
        case 2:
          part(std::integral_constant<int, 2>{});
          break;
        case 3:
          part(std::integral_constant<int, 3>{});
          break;
        default:
          part(std::integral_constant<int, 4>{});
          break;
      }
    }
  });
}

}    // namespace

std::tuple<at::Tensor, at::Tensor> allegro(const at::Tensor &edge_vectors,
                                           const at::Tensor &edge_index,
                                           const at::Tensor &atom_types, at::TensorList weights,
                                           c10::IntArrayRef shape)
{
  const int64_t num_edges = edge_index.size(1), num_atoms = atom_types.numel();
  TORCH_CHECK(edge_vectors.dim() == 2 && edge_vectors.size(0) == num_edges &&
                  edge_vectors.size(1) == 3 && edge_vectors.scalar_type() == at::kDouble,
              "kan_md::allegro: edge_vectors must be [", num_edges, ", 3] float64, got ",
              edge_vectors.sizes(), " ", edge_vectors.scalar_type());
  TORCH_CHECK(!weights.empty(), "kan_md::allegro: no weights");
  const at::Tensor vectors = edge_vectors.contiguous(), index = edge_index.contiguous();
  const at::Tensor types = atom_types.contiguous();
  at::Tensor energies = at::empty({num_atoms}, vectors.options());
  at::Tensor gradient = at::empty({num_edges, 3}, vectors.options());
  const int num_threads = at::get_num_threads();
  const CentreRanges ranges(index, num_atoms, num_threads);
  const std::vector<at::Tensor> kept(weights.begin(), weights.end());
  const auto call = [&](const auto &plan) {
    const Graph graph{
        vectors.const_data_ptr<double>(),    index.const_data_ptr<int64_t>() + num_edges,
        types.const_data_ptr<int64_t>(),     checked_num_types(types, plan.num_pairs),
        energies.mutable_data_ptr<double>(), gradient.mutable_data_ptr<double>()};
    run(plan, graph, ranges, num_edges, num_threads);
  };
  if (kept[0].scalar_type() == at::kFloat)
    call(AllegroPlan<float>(kept, shape));
  else
    call(AllegroPlan<double>(kept, shape));
  return {energies, gradient};
}

}    // namespace kan_md::ops
