// The embedding function of a MACE with one interaction: densities of an atom to its energy.

#ifndef KAN_MD_OPS_LOCAL_MACE_EMBEDDING_H
#define KAN_MD_OPS_LOCAL_MACE_EMBEDDING_H

#include "activation.h"
#include "local_mace_plan.h"
#include "piecewise.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace kan_md::ops {

// Aligned memory of one thread.
template <typename T> class Memory {
 public:
  explicit Memory(int64_t size) :
      data_(static_cast<T *>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kAlign)))
  {
  }
  T *get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Release {
    void operator()(T *p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Release> data_;
};

// F(rho) and its gradient.
template <typename T> class EmbeddingFunction {
 public:
  explicit EmbeddingFunction(const LocalMacePlan<T> &plan) :
      plan_(plan), row_(plan.longest_row), active_(plan.widest), next_(plan.widest)
  {
    for (const Product<T> &map : plan.hidden) inner_.emplace_back(map.out);
    if (!plan.kans.empty())    // widths are those of all types
      for (const KanLayer<T> &layer : plan.kans[0]) inner_.emplace_back(layer.product.out);
  }

  // rho [densities] of an atom of a type becomes dF/drho.
  double run(T *rho, int64_t type)
  {
    const int64_t number = plan_.per_type() ? type : 0;
    switch (plan_.embedding) {
      case Embedding::kKan:
      case Embedding::kKanPerType:
        return piecewise_row(plan_.densities, rho, plan_.pieces[number], rho);
      case Embedding::kKanNetwork:
      case Embedding::kKanNetworkPerType:
        return network(plan_.kans[number], rho);
      case Embedding::kFinnisSinclair:
        return lines_and_roots(rho, type);
      default:
        return perceptron(rho, type);
    }
  }

 private:
  static double dot(int64_t n, const T *a, const T *b)
  {
    Vec<T> total{};
    for (int64_t i = 0; i < n; i += Simd<T>::kLanes) total += load(a + i) * load(b + i);
    return sum<T>(total);
  }

  // sum_k a_k x_k + b_k F(g_k x_k), see FinnisSinclair in Python.
  double lines_and_roots(T *rho, int64_t type)
  {
    const int64_t count = plan_.densities;
    const T *line = plan_.vector + plan_.vector_of_type * type;
    const T *root = line + count, *gain = root + count;
    Vec<T> total{};
    for (int64_t i = 0; i < count; i += Simd<T>::kLanes) {
      const Vec<T> x = load(rho + i), a = load(line + i), b = load(root + i), g = load(gain + i);
      const Vec<T> z = g * x, size = z < 0 ? -z : z, decay = vector_exp<T>(-size);
      Vec<T> slow = size + T(0.25) * decay;
      for (int lane = 0; lane < Simd<T>::kLanes; ++lane) slow[lane] = std::sqrt(slow[lane]);
      const Vec<T> value = (size + T(0.25) * decay * (1 - decay)) / (slow + T(0.5) * decay);
      const Vec<T> slope = (1 - T(0.25) * decay) / (2 * slow) + T(0.5) * decay;
      total += a * x + b * (z < 0 ? -value : value);
      store(rho + i, a + b * g * slope);
    }
    return sum<T>(total);
  }

  double perceptron(T *rho, int64_t type)
  {
    if (plan_.hidden.empty()) {
      const T *vector = plan_.vector + plan_.vector_of_type * type;
      const double energy = dot(plan_.densities, rho, vector);
      std::copy_n(vector, plan_.densities, rho);
      return energy;
    }
    const T *x = rho;
    for (size_t d = 0; d < plan_.hidden.size(); ++d) {
      const Product<T> &map = plan_.hidden[d];
      multiply<T>(1, map.in, map.out, x, map.in, map.weight, map.out, inner_[d].get(), map.out,
                  false);
      silu(map.out, inner_[d].get(), active_.get());
      x = active_.get();
    }
    const int64_t last = plan_.hidden.back().out;
    const double energy = dot(last, active_.get(), plan_.vector);
    std::copy_n(plan_.vector, last, active_.get());
    T *grad = active_.get(), *next = next_.get();
    for (size_t d = plan_.hidden.size(); d-- > 0; std::swap(grad, next)) {
      const Product<T> &map = plan_.hidden[d];
      silu_reverse(map.out, inner_[d].get(), grad);
      multiply<T>(1, map.out, map.in, grad, map.out, map.transposed, map.in, d == 0 ? rho : next,
                  map.in, false);
    }
    return energy;
  }

  double network(const std::vector<KanLayer<T>> &layers, T *rho)
  {
    const T *x = rho;
    for (size_t d = 0; d < layers.size(); ++d) {
      const int64_t out = layers[d].product.out;
      std::fill_n(inner_[d].get(), out, T(0));
      add_kan<T>(layers[d], 1, x, layers[d].in, row_.get(), inner_[d].get(), out);
      x = inner_[d].get();
    }
    const double energy = x[0];
    std::fill_n(active_.get(), layers.back().product.out, T(0));
    active_.get()[0] = 1;
    for (size_t d = layers.size(); d-- > 0;) {
      const KanLayer<T> &layer = layers[d];
      T *const values = d == 0 ? rho : inner_[d - 1].get();
      reverse_kan<T>(layer, 1, values, layer.in, row_.get(), active_.get(), layer.product.out,
                     values, layer.in);
      if (d > 0) std::copy_n(values, layer.in, active_.get());
    }
    return energy;
  }

  const LocalMacePlan<T> &plan_;
  Memory<T> row_, active_, next_;
  std::vector<Memory<T>> inner_;
};

}    // namespace kan_md::ops

#endif
