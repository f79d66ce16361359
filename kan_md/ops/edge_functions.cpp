// Radial functions and spherical harmonics of edge vectors, for training: values, the product of
// gradients with the Jacobian, and the derivatives of both, by one source for numbers and dual numbers.
//
//   x = r / cutoff,  radial_n = sin(n pi x) / (pi x) u(x),  u = 1 - A x^p + B x^(p+1) - C x^(p+2) for x < 1
//   Y_l = M_l (Y_(l-1) (x) v/r),  Y_0 = 1                   as kan_md/forms/harmonics.py says
//
// A vector holds one number of several edges, in float64 whatever the model's dtype.

#include "basis.h"
#include "dual.h"
#include "ops.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>

namespace kan_md::ops {
namespace {

constexpr int kMostL = 4, kMostComponents = (kMostL + 1) * (kMostL + 1), kMostBessels = 64;
constexpr int kLanes = Simd<double>::kLanes;
typedef Vec<double> V;

struct EdgeFunctions {
  const double *vectors, *tangents;    // [edges, 3]; tangents of dual numbers
  const int64_t *pair;                 // [edges]
  const double *inverse_cutoffs;       // [pairs]
  const double *matrices;              // M_l of l = 1 .. l_max, [3 (2l - 1), 2l + 1] each
  int64_t num_edges, l_max, num_bessels, power;

  int64_t components() const { return (l_max + 1) * (l_max + 1); }
};

V square_root(V x)
{
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
}

// Numbers of a few edges; lanes without an edge repeat the last one.
template <int Planes> class Edges {
  typedef Number<double, Planes> N;

 public:
  Edges(const EdgeFunctions &f, int64_t begin) : f_(f)
  {
    double numbers[7][kLanes] = {};    // vector, tangent, inverse cutoff
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t edge = std::min(begin + lane, f.num_edges - 1);
      for (int axis = 0; axis < 3; ++axis) {
        numbers[axis][lane] = f.vectors[3 * edge + axis];
        if constexpr (Planes == 2) numbers[3 + axis][lane] = f.tangents[3 * edge + axis];
      }
      numbers[6][lane] = f.inverse_cutoffs[f.pair[edge]];
    }
    inverse_cutoff_ = load(numbers[6]);
    V square{};
    const V vector[] = {load(numbers[0]), load(numbers[1]), load(numbers[2])};
    const V tangent[] = {load(numbers[3]), load(numbers[4]), load(numbers[5])};
    for (const V &component : vector) square += component * component;
    const V length = square_root(square), inverse = 1 / length;
    if constexpr (Planes == 2) {
      V stretch{};
      for (int axis = 0; axis < 3; ++axis) stretch += vector[axis] * tangent[axis];
      stretch *= inverse;
      length_ = {length, stretch};
      inverse_ = {inverse, -stretch * inverse * inverse};
      for (int axis = 0; axis < 3; ++axis)
        unit_[axis] = Dual<double>{vector[axis], tangent[axis]} * inverse_;
    } else {
      length_ = length;
      inverse_ = inverse;
      for (int axis = 0; axis < 3; ++axis) unit_[axis] = vector[axis] * inverse;
    }
    raise();
  }

  // function(n, value, slope by the length) for each radial function.
  template <typename Function> void for_each_radial(Function &&function) const
  {
    const N place = scaled(length_, inverse_cutoff_);
    const V x = value_of<double, Planes>(place), inverse = 1 / x;
    const double p = static_cast<double>(f_.power), a = (p + 1) * (p + 2) / 2, b = p * (p + 2),
                 c = p * (p + 1) / 2;
    V power = fill<double>(1);    // x^(p - 2)
    for (int64_t k = 2; k < f_.power; ++k) power *= x;
    const V u = 1 - power * x * x * (a - x * (b - x * c));
    const V u1 = -power * x * (a * p - x * (b * (p + 1) - x * c * (p + 2)));
    const V u2 = -power * (a * p * (p - 1) - x * (b * (p + 1) * p - x * c * (p + 2) * (p + 1)));
    const auto within = [&](V value) { return x < 1 ? value : fill<double>(0); };
    const V over = inverse / M_PI;
    const V g = within(u) * over, g1 = within(u1) * over - g * inverse;
    const V g2 = within(u2) * over - 2 * g1 * inverse;    // (x g)'' = x g'' + 2 g'
    V sine1, cosine1;
    sine_and_cosine<double>(x / 2, sine1, cosine1);
    V sine = sine1, cosine = cosine1;
    for (int64_t n = 0; n < f_.num_bessels; ++n) {
      const double k = M_PI * static_cast<double>(n + 1);
      const V first = k * cosine * g + sine * g1;
      const V second = sine * (g2 - k * k * g) + 2 * k * cosine * g1;
      function(n, with_slope<double, Planes>(sine * g, first, place),
               scaled(with_slope<double, Planes>(first, second, place), inverse_cutoff_));
      const V before = sine;
      sine = before * cosine1 + cosine * sine1;
      cosine = cosine * cosine1 - before * sine1;
    }
  }

  const N &harmonic(int64_t i) const { return harmonics_[i]; }

  // d/d(vector) of what has these gradients by the length and by the harmonics.
  void reverse(N length_grad, const V *harmonics_grad, N (&result)[3]) const
  {
    N grads[kMostComponents], unit_grad[3] = {};
    for (int64_t i = 0; i < f_.components(); ++i) grads[i] = constant(harmonics_grad[i]);
    for (int64_t l = f_.l_max; l > 0; --l)
      for_each_product(l, [&](int64_t lower, int axis, int64_t i, double weight) {
        const N grad = scaled(grads[i], fill<double>(weight));
        grads[lower] += grad * unit_[axis];
        unit_grad[axis] += grad * harmonics_[lower];
      });
    N along{};
    for (int axis = 0; axis < 3; ++axis) along += unit_grad[axis] * unit_[axis];
    for (int axis = 0; axis < 3; ++axis) {
      const N radial = unit_[axis] * (length_grad + scaled(along * inverse_, fill<double>(-1)));
      result[axis] = unit_grad[axis] * inverse_ + radial;
    }
  }

  static N constant(V value) { return with_slope<double, Planes>(value, V{}, N{}); }

 private:
  void raise()
  {
    harmonics_[0] = constant(fill<double>(1));
    for (int64_t l = 1; l <= f_.l_max; ++l) {
      for (int64_t i = l * l; i < (l + 1) * (l + 1); ++i) harmonics_[i] = N{};
      for_each_product(l, [&](int64_t lower, int axis, int64_t i, double weight) {
        harmonics_[i] += scaled(harmonics_[lower] * unit_[axis], fill<double>(weight));
      });
    }
  }

  // body(component of Y_(l-1), axis, component of Y_l, their number in M_l)
  template <typename Body> void for_each_product(int64_t l, Body &&body) const
  {
    const double *matrix = f_.matrices;
    for (int64_t k = 1; k < l; ++k) matrix += 3 * (2 * k - 1) * (2 * k + 1);
    for (int64_t lower = (l - 1) * (l - 1); lower < l * l; ++lower)
      for (int axis = 0; axis < 3; ++axis)
        for (int64_t i = l * l; i < (l + 1) * (l + 1); ++i, ++matrix)
          if (*matrix != 0) body(lower, axis, i, *matrix);
  }

  const EdgeFunctions &f_;
  V inverse_cutoff_;
  N length_, inverse_, unit_[3], harmonics_[kMostComponents];
};

template <int Planes, typename T> void evaluate(const EdgeFunctions &f, T *radial, T *harmonics)
{
  in_parallel_parts(at::get_num_threads(), (f.num_edges + kLanes - 1) / kLanes,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t first = begin * kLanes;
                           first < std::min(end * kLanes, f.num_edges); first += kLanes) {
                        const Edges<Planes> edges(f, first);
                        const int64_t count = std::min<int64_t>(kLanes, f.num_edges - first);
                        const auto put = [&](T *to, int64_t width, Number<double, Planes> x) {
                          const V wanted = result_of<double, Planes>(x);
                          for (int64_t lane = 0; lane < count; ++lane)
                            to[(first + lane) * width] = static_cast<T>(wanted[lane]);
                        };
                        edges.for_each_radial(
                            [&](int64_t n, Number<double, Planes> value, Number<double, Planes>) {
                              put(radial + n, f.num_bessels, value);
                            });
                        for (int64_t i = 0; i < f.components(); ++i)
                          put(harmonics + i, f.components(), edges.harmonic(i));
                      }
                    });
}

template <int Planes, typename T>
void reverse(const EdgeFunctions &f, const T *radial_grad, const T *harmonics_grad, double *result)
{
  in_parallel_parts(at::get_num_threads(), (f.num_edges + kLanes - 1) / kLanes,
                    [&](int64_t begin, int64_t end) {
                      for (int64_t first = begin * kLanes;
                           first < std::min(end * kLanes, f.num_edges); first += kLanes) {
                        const Edges<Planes> edges(f, first);
                        const int64_t count = std::min<int64_t>(kLanes, f.num_edges - first);
                        const auto get = [&](const T *from, int64_t width) {
                          V x{};
                          for (int64_t lane = 0; lane < count; ++lane)
                            x[lane] = from[(first + lane) * width];
                          return x;
                        };
                        Number<double, Planes> length_grad{}, vector_grad[3];
                        edges.for_each_radial(
                            [&](int64_t n, Number<double, Planes>, Number<double, Planes> slope) {
                              length_grad += scaled(slope, get(radial_grad + n, f.num_bessels));
                            });
                        V grads[kMostComponents];
                        for (int64_t i = 0; i < f.components(); ++i)
                          grads[i] = get(harmonics_grad + i, f.components());
                        edges.reverse(length_grad, grads, vector_grad);
                        for (int axis = 0; axis < 3; ++axis) {
                          const V wanted = result_of<double, Planes>(vector_grad[axis]);
                          for (int64_t lane = 0; lane < count; ++lane)
                            result[3 * (first + lane) + axis] = wanted[lane];
                        }
                      }
                    });
}

EdgeFunctions functions_of(const at::Tensor &vectors, const std::optional<at::Tensor> &tangents,
                           const at::Tensor &pair, const at::Tensor &inverse_cutoffs,
                           const at::Tensor &matrices, int64_t l_max, int64_t num_bessels,
                           int64_t power)
{
  const char *name = "kan_md::edge_functions";
  const auto check_vectors = [&](const at::Tensor &t) {
    TORCH_CHECK(t.scalar_type() == at::kDouble && t.is_contiguous() && t.dim() == 2 &&
                    t.size(0) == pair.numel() && t.size(1) == 3,
                name, ": contiguous float64 [edges, 3] and a pair for each, got ", t.scalar_type(),
                " ", t.sizes());
  };
  check_vectors(vectors);
  if (tangents) check_vectors(*tangents);
  TORCH_CHECK(pair.scalar_type() == at::kLong && pair.is_contiguous() &&
                  inverse_cutoffs.scalar_type() == at::kDouble && inverse_cutoffs.is_contiguous() &&
                  matrices.scalar_type() == at::kDouble && matrices.is_contiguous(),
              name, ": pairs int64, cutoffs and matrices float64, contiguous");
  int64_t size = 0;
  for (int64_t l = 1; l <= l_max; ++l) size += 3 * (2 * l - 1) * (2 * l + 1);
  TORCH_CHECK(l_max >= 0 && l_max <= kMostL && matrices.numel() == size && num_bessels >= 1 &&
                  num_bessels <= kMostBessels && power >= 2,
              name, ": l up to ", kMostL, " with its matrices, ", kMostBessels,
              " radial functions, powers from 2, got ", l_max, ", ", num_bessels, " and ", power);
  const int64_t *pairs = pair.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < pair.numel(); ++e)
    TORCH_CHECK(pairs[e] >= 0 && pairs[e] < inverse_cutoffs.numel(), name, ": pair ", pairs[e],
                " has no cutoff");
  return {vectors.const_data_ptr<double>(),
          tangents ? tangents->const_data_ptr<double>() : nullptr,
          pairs,
          inverse_cutoffs.const_data_ptr<double>(),
          matrices.const_data_ptr<double>(),
          pair.numel(),
          l_max,
          num_bessels,
          power};
}

}    // namespace

std::tuple<at::Tensor, at::Tensor>
edge_functions(const at::Tensor &vectors, const std::optional<at::Tensor> &tangents,
               const at::Tensor &pair, const at::Tensor &inverse_cutoffs,
               const at::Tensor &matrices, int64_t l_max, int64_t num_bessels, int64_t power,
               at::ScalarType dtype)
{
  const EdgeFunctions f =
      functions_of(vectors, tangents, pair, inverse_cutoffs, matrices, l_max, num_bessels, power);
  const auto options = vectors.options().dtype(dtype);
  const at::Tensor radial = at::empty({f.num_edges, num_bessels}, options);
  const at::Tensor harmonics = at::empty({f.num_edges, f.components()}, options);
  AT_DISPATCH_FLOATING_TYPES(dtype, "edge_functions", [&] {
    const auto results = [&](auto call) {
      call(f, radial.mutable_data_ptr<scalar_t>(), harmonics.mutable_data_ptr<scalar_t>());
    };
    if (tangents)
      results(evaluate<2, scalar_t>);
    else
      results(evaluate<1, scalar_t>);
  });
  return {radial, harmonics};
}

at::Tensor edge_functions_backward(const at::Tensor &radial_grad, const at::Tensor &harmonics_grad,
                                   const at::Tensor &vectors,
                                   const std::optional<at::Tensor> &tangents,
                                   const at::Tensor &pair, const at::Tensor &inverse_cutoffs,
                                   const at::Tensor &matrices, int64_t l_max, int64_t num_bessels,
                                   int64_t power)
{
  const EdgeFunctions f =
      functions_of(vectors, tangents, pair, inverse_cutoffs, matrices, l_max, num_bessels, power);
  TORCH_CHECK(radial_grad.sizes() == at::IntArrayRef({f.num_edges, num_bessels}) &&
                  harmonics_grad.sizes() == at::IntArrayRef({f.num_edges, f.components()}) &&
                  radial_grad.is_contiguous() && harmonics_grad.is_contiguous() &&
                  radial_grad.scalar_type() == harmonics_grad.scalar_type(),
              "kan_md::edge_functions: gradients are of the shape of their numbers, got ",
              radial_grad.sizes(), " and ", harmonics_grad.sizes());
  const at::Tensor result = at::empty(vectors.sizes(), vectors.options());
  AT_DISPATCH_FLOATING_TYPES(radial_grad.scalar_type(), "edge_functions_backward", [&] {
    const auto results = [&](auto call) {
      call(f, radial_grad.const_data_ptr<scalar_t>(), harmonics_grad.const_data_ptr<scalar_t>(),
           result.mutable_data_ptr<double>());
    };
    if (tangents)
      results(reverse<2, scalar_t>);
    else
      results(reverse<1, scalar_t>);
  });
  return result;
}

}    // namespace kan_md::ops
