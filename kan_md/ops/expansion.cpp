// The expansion of atomic neighbourhoods, for training: sums over the neighbours j of one type
//
//   a_i,lm,k = sum_j R_lk(r_ij) Y_lm(r_ij / |r_ij|),
//
// as a function of the edge vectors, with R given by its values and its slopes R' at the lengths of
// the edges. So the gradient by the vectors of whatever is made of a needs no reverse pass through
// what R is made of, and the derivatives of that gradient by R and R' are all that training needs:
// for a field f = dE/da, vectors v that multiply the gradient and a field h = dL/da of the loss,
//
//   dL/dR'_lk = (u.v) sum_m f_lmk Y_lm,   dL/dR_lk = sum_m f_lmk dY_lm + h_lmk Y_lm,
//
// where u is the unit vector and dY the change of Y along v. Both ends of a pair of atoms share R,
// and Y but for a sign (-1)^l. Loops over atoms and over pairs write where nothing else writes, so
// bits do not depend on the number of threads.

#include "dual.h"
#include "lane_sums.h"
#include "ops.h"
#include "spherical_harmonics.h"

#include "core/parallel.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace kan_md::ops {
namespace {

// Edges: all pairs, then, where they are paired, the same turned round.
template <typename T> struct Neighbourhoods {
  const double *vectors = nullptr, *along = nullptr;    // [pairs, 3]
  const T *jets = nullptr;                              // [2, pairs, degrees * channels]
  const int64_t *order = nullptr, *first = nullptr;     // edges of each sum
  const int64_t *of_edge = nullptr;                     // number of the sum, [edges]
  int64_t num_pairs = 0, num_sums = 0, num_types = 0, channels = 0;
  bool paired = false;

  // Of a sum: its first number; numbers of one component and of the next are stride() apart.
  int64_t place(int64_t sum, int64_t components) const
  {
    return (sum / num_types * components * num_types + sum % num_types) * channels;
  }
  int64_t stride() const { return num_types * channels; }
};

// Harmonics of a few vectors, one per lane, and their change along others.
template <typename T, int L> struct Harmonics {
  static constexpr int kLanes = Simd<T>::kLanes, kBasis = (L + 1) * (L + 1);

  T unit[3][kLanes] = {}, change[3][kLanes] = {}, inverse[kLanes] = {}, stretch[kLanes] = {};
  alignas(64) T y[kBasis][kLanes], slope[kBasis][kLanes];

  void set(int lane, const double *vector, const double *along, double sign)
  {
    const double r =
        std::sqrt(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
    double by_length = 0;
    if (along)
      for (int axis = 0; axis < 3; ++axis) by_length += vector[axis] * along[axis] / r;
    inverse[lane] = static_cast<T>(1 / r);
    stretch[lane] = static_cast<T>(by_length);
    for (int axis = 0; axis < 3; ++axis) {
      const double u = vector[axis] / r;
      unit[axis][lane] = static_cast<T>(sign * u);
      if (along) change[axis][lane] = static_cast<T>(sign * (along[axis] - u * by_length) / r);
    }
  }

  template <int Planes> void evaluate()
  {
    Number<T, Planes> x[3], out[kBasis];
    for (int axis = 0; axis < 3; ++axis) {
      if constexpr (Planes == 2)
        x[axis] = {load(unit[axis]), load(change[axis])};
      else
        x[axis] = load(unit[axis]);
    }
    spherical_harmonics<L, T>(x[0], x[1], x[2], out);
    for (int m = 0; m < kBasis; ++m) {
      store(y[m], value_of<T, Planes>(out[m]));
      if constexpr (Planes == 2) store(slope[m], out[m].slope);
    }
  }
};

// Adds up a, or with Planes == 2 its change along.
template <typename T, int Planes, int L>
void expand(const Neighbourhoods<T> &n, int64_t begin, int64_t end, T *out)
{
  constexpr int kLanes = Simd<T>::kLanes, kBasis = (L + 1) * (L + 1);
  const int64_t width = (L + 1) * n.channels, c = n.channels;
  std::vector<Harmonics<T, L>> harmonics;
  for (int64_t sum = begin; sum < end; ++sum) {
    const int64_t *const edges = n.order + n.first[sum];
    const int64_t count = n.first[sum + 1] - n.first[sum];
    if (count == 0) continue;
    harmonics.resize(std::max<size_t>(harmonics.size(), (count + kLanes - 1) / kLanes));
    for (int64_t e = 0; e < count; ++e) {
      const int64_t pair = edges[e] % n.num_pairs;
      harmonics[e / kLanes].set(e % kLanes, n.vectors + 3 * pair,
                                Planes == 2 ? n.along + 3 * pair : nullptr,
                                edges[e] < n.num_pairs ? 1 : -1);
      if ((e + 1) % kLanes == 0 || e + 1 == count)
        harmonics[e / kLanes].template evaluate<Planes>();
    }
    T *const result = out + n.place(sum, kBasis);
    for (int64_t v = 0; v < c; v += kLanes) {
      Vec<T> total[kBasis] = {};
      for (int64_t e = 0; e < count; ++e) {
        const int64_t pair = edges[e] % n.num_pairs;
        const T *const value = n.jets + pair * width + v;
        const Harmonics<T, L> &at = harmonics[e / kLanes];
        const int64_t lane = e % kLanes;
#pragma GCC unroll 8
        for (int degree = 0; degree <= L; ++degree) {
          const Vec<T> radial = load(value + degree * c);
          Vec<T> moved{};
          if constexpr (Planes == 2)
            moved = load(value + n.num_pairs * width + degree * c) * at.stretch[lane];
#pragma GCC unroll 16
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m) {
            if constexpr (Planes == 2)
              total[m] += moved * at.y[m][lane] + radial * at.slope[m][lane];
            else
              total[m] += radial * at.y[m][lane];
          }
        }
      }
      for (int m = 0; m < kBasis; ++m) store(result + m * n.stride() + v, total[m]);
    }
  }
}

// Of a pair, what a field on the sums at both of its ends is for the harmonics of one direction.
template <typename T, int L> class FieldOfPair {
 public:
  FieldOfPair(const Neighbourhoods<T> &n, const T *field, int64_t pair) : stride_(n.stride())
  {
    constexpr int kBasis = (L + 1) * (L + 1);
    one_ = field + n.place(n.of_edge[pair], kBasis);
    if (n.paired) other_ = field + n.place(n.of_edge[n.num_pairs + pair], kBasis);
  }

  // Of component m, which is of an even degree or not.
  KAN_MD_INLINE Vec<T> operator()(int m, bool even, int64_t v) const
  {
    const Vec<T> here = load(one_ + m * stride_ + v);
    if (!other_) return here;
    const Vec<T> there = load(other_ + m * stride_ + v);
    return even ? here + there : here - there;
  }

 private:
  const T *one_ = nullptr, *other_ = nullptr;
  int64_t stride_;
};

// Calls body(harmonics, first pair, number of pairs) for a few pairs at a time.
template <typename T, int Planes, int L, typename Body>
void for_pairs(const Neighbourhoods<T> &n, int64_t begin, int64_t end, Body &&body)
{
  constexpr int kLanes = Simd<T>::kLanes;
  Harmonics<T, L> harmonics;
  for (int64_t pair = begin; pair < end; pair += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, end - pair));
    for (int lane = 0; lane < count; ++lane)
      harmonics.set(lane, n.vectors + 3 * (pair + lane),
                    Planes == 2 ? n.along + 3 * (pair + lane) : nullptr, 1);
    harmonics.template evaluate<Planes>();
    body(harmonics, pair, count);
  }
}

// dE/d(vector) for dE/da = field.
template <typename T, int L>
void differentiate(const Neighbourhoods<T> &n, const T *field, int64_t begin, int64_t end,
                   double *out)
{
  constexpr int kLanes = Simd<T>::kLanes, kBasis = (L + 1) * (L + 1);
  const int64_t width = (L + 1) * n.channels, c = n.channels;
  for_pairs<T, 1, L>(n, begin, end, [&](const Harmonics<T, L> &at, int64_t first, int count) {
    alignas(64) T angular[kBasis][kLanes] = {}, along[kLanes] = {};
    for (int lane = 0; lane < count; ++lane) {
      const int64_t pair = first + lane;
      const FieldOfPair<T, L> f(n, field, pair);
      // Of dE/dY; that of l = 0 moves nothing, and dE/dr takes its place.
      Vec<T> part[kBasis] = {};
      for (int64_t v = 0; v < c; v += kLanes) {
        const T *const value = n.jets + pair * width + v;
#pragma GCC unroll 8
        for (int degree = 0; degree <= L; ++degree) {
          const Vec<T> radial = load(value + degree * c);
          Vec<T> projected{};
#pragma GCC unroll 16
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m) {
            const Vec<T> here = f(m, degree % 2 == 0, v);
            projected += here * at.y[m][lane];
            if (m > 0) part[m] += radial * here;
          }
          part[0] += projected * load(value + n.num_pairs * width + degree * c);
        }
      }
      T sums[kBasis];
      lane_sums<T, kBasis>(part, sums);
      along[lane] = sums[0];
      for (int m = 1; m < kBasis; ++m) angular[m][lane] = sums[m];
    }
    Vec<T> weights[kBasis], gradient[3], unit[3];
    for (int m = 0; m < kBasis; ++m) weights[m] = load(angular[m]);
    for (int axis = 0; axis < 3; ++axis) unit[axis] = load(at.unit[axis]);
    spherical_harmonics_reverse<L, T>(unit[0], unit[1], unit[2], weights, gradient);
    const Vec<T> inverse = load(at.inverse);
    const Vec<T> radial =
        load(along) -
        (gradient[0] * unit[0] + gradient[1] * unit[1] + gradient[2] * unit[2]) * inverse;
    for (int axis = 0; axis < 3; ++axis) {
      const Vec<T> result = gradient[axis] * inverse + radial * unit[axis];
      for (int lane = 0; lane < count; ++lane) out[3 * (first + lane) + axis] = result[lane];
    }
  });
}

// dL/dR and dL/dR'. With Planes == 1 there are no vectors, and no field f.
template <typename T, int Planes, int L>
void differentiate_jets(const Neighbourhoods<T> &n, const T *field, const T *of_loss, int64_t begin,
                        int64_t end, T *out)
{
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t width = (L + 1) * n.channels, c = n.channels;
  for_pairs<T, Planes, L>(n, begin, end, [&](const Harmonics<T, L> &at, int64_t first, int count) {
    for (int lane = 0; lane < count; ++lane) {
      const int64_t pair = first + lane;
      const FieldOfPair<T, L> h(n, of_loss, pair), f(n, Planes == 2 ? field : of_loss, pair);
      for (int64_t v = 0; v < c; v += kLanes) {
        T *const by_value = out + pair * width + v, *const by_slope =
                                                        by_value + n.num_pairs * width;
#pragma GCC unroll 8
        for (int degree = 0; degree <= L; ++degree) {
          Vec<T> value{}, slope{};
#pragma GCC unroll 16
          for (int m = degree * degree; m < (degree + 1) * (degree + 1); ++m) {
            value += h(m, degree % 2 == 0, v) * at.y[m][lane];
            if constexpr (Planes == 2) {
              const Vec<T> here = f(m, degree % 2 == 0, v);
              value += here * at.slope[m][lane];
              slope += here * at.y[m][lane];
            }
          }
          store(by_value + degree * c, value);
          store(by_slope + degree * c, slope * at.stretch[lane]);
        }
      }
    }
  });
}

void check_vectors(const at::Tensor &vectors, const at::Tensor &like)
{
  TORCH_CHECK(vectors.scalar_type() == at::kDouble && vectors.is_contiguous() &&
                  vectors.dim() == 2 && vectors.size(1) == 3 && vectors.sizes() == like.sizes(),
              "kan_md::expansion: vectors are contiguous float64 [pairs, 3], got ",
              vectors.scalar_type(), " ", vectors.sizes());
}

void check_field(const at::Tensor &field, at::ScalarType dtype, int64_t num_sums, int64_t num_types,
                 int64_t components, int64_t channels)
{
  TORCH_CHECK(field.is_contiguous() && field.scalar_type() == dtype && field.dim() == 4 &&
                  field.size(0) * field.size(2) == num_sums && field.size(2) == num_types &&
                  field.size(1) == components && field.size(3) == channels,
              "kan_md::expansion: fields are contiguous [atoms, ", components, ", ", num_types,
              ", ", channels, "] of one dtype, got ", field.scalar_type(), " ", field.sizes());
}

// What belongs to the sums and edges, checked.
template <typename T>
Neighbourhoods<T> neighbourhoods_of(const at::Tensor &vectors, int64_t channels,
                                    const at::Tensor &order, const at::Tensor &first,
                                    const at::Tensor &of_edge, int64_t num_types)
{
  check_vectors(vectors, vectors);
  for (const at::Tensor &index : {order, first, of_edge})
    TORCH_CHECK(index.scalar_type() == at::kLong && index.dim() == 1 && index.is_contiguous(),
                "kan_md::expansion: indices are contiguous int64 [n], got ", index.scalar_type(),
                " ", index.sizes());
  Neighbourhoods<T> n;
  n.vectors = vectors.const_data_ptr<double>();
  n.order = order.const_data_ptr<int64_t>();
  n.first = first.const_data_ptr<int64_t>();
  n.of_edge = of_edge.const_data_ptr<int64_t>();
  n.num_pairs = vectors.size(0);
  n.num_sums = first.numel() - 1;
  n.num_types = num_types;
  n.channels = channels;
  const int64_t num_edges = order.numel();
  n.paired = num_edges != n.num_pairs;
  TORCH_CHECK(num_edges == (n.paired ? 2 : 1) * n.num_pairs && of_edge.numel() == num_edges,
              "kan_md::expansion: one or two edges of each of ", n.num_pairs, " pairs, got ",
              num_edges, " and ", of_edge.numel());
  TORCH_CHECK(num_types >= 1 && n.num_sums >= 0 && n.num_sums % num_types == 0 && n.first[0] == 0 &&
                  n.first[n.num_sums] == num_edges,
              "kan_md::expansion: sums for ", num_types, " types of each atom over all ", num_edges,
              " edges, got ", n.num_sums);
  TORCH_CHECK(channels > 0 && channels % Simd<T>::kBlock == 0,
              "kan_md::expansion: channels are multiples of ", Simd<T>::kBlock, ", got ", channels);
  for (int64_t sum = 0; sum < n.num_sums; ++sum)
    TORCH_CHECK(n.first[sum] <= n.first[sum + 1], "kan_md::expansion: the edges of sum ", sum,
                " end before they begin");
  for (int64_t e = 0; e < num_edges; ++e)
    TORCH_CHECK(n.order[e] >= 0 && n.order[e] < num_edges && n.of_edge[e] >= 0 &&
                    n.of_edge[e] < n.num_sums,
                "kan_md::expansion: edge ", e, " belongs to nothing");
  return n;
}

template <typename T> void set_jets(Neighbourhoods<T> &n, const at::Tensor &jets, int64_t l_max)
{
  TORCH_CHECK(jets.is_contiguous() && jets.dim() == 3 && jets.size(0) == 2 &&
                  jets.size(1) == n.num_pairs && jets.size(2) == (l_max + 1) * n.channels,
              "kan_md::expansion: jets are contiguous [2, ", n.num_pairs, ", ",
              (l_max + 1) * n.channels, "], got ", jets.sizes());
  n.jets = jets.const_data_ptr<T>();
}

int64_t channels_of(const at::Tensor &jets, int64_t l_max)
{
  TORCH_CHECK(l_max >= 0 && l_max <= kMaxL && jets.dim() == 3, "kan_md::expansion: degrees up to ",
              kMaxL, " and jets [2, pairs, functions], got ", l_max, " and ", jets.sizes());
  return jets.size(2) / (l_max + 1);
}

// call.operator()<L>()
template <typename Call> void with_degree(int64_t l_max, Call &&call)
{
  switch (l_max) {
    case 0:
      return call.template operator()<0>();
    case 1:
      return call.template operator()<1>();
    case 2:
      return call.template operator()<2>();
    case 3:
      return call.template operator()<3>();
    default:
      return call.template operator()<kMaxL>();
  }
}

}    // namespace

at::Tensor expansion(const at::Tensor &vectors, const std::optional<at::Tensor> &along,
                     const at::Tensor &jets, const at::Tensor &order, const at::Tensor &first,
                     const at::Tensor &of_edge, int64_t num_types, int64_t l_max)
{
  const int64_t channels = channels_of(jets, l_max), components = (l_max + 1) * (l_max + 1);
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES(jets.scalar_type(), "expansion", [&] {
    auto n = neighbourhoods_of<scalar_t>(vectors, channels, order, first, of_edge, num_types);
    set_jets(n, jets, l_max);
    if (along) {
      check_vectors(*along, vectors);
      n.along = along->const_data_ptr<double>();
    }
    out = at::zeros({n.num_sums / num_types, components, num_types, channels}, jets.options());
    scalar_t *const result = out.mutable_data_ptr<scalar_t>();
    with_degree(l_max, [&]<int L>() {
      in_parallel_parts(at::get_num_threads(), n.num_sums, [&](int64_t begin, int64_t end) {
        if (along)
          expand<scalar_t, 2, L>(n, begin, end, result);
        else
          expand<scalar_t, 1, L>(n, begin, end, result);
      });
    });
  });
  return out;
}

at::Tensor expansion_gradient(const at::Tensor &field, const at::Tensor &vectors,
                              const at::Tensor &jets, const at::Tensor &order,
                              const at::Tensor &first, const at::Tensor &of_edge, int64_t num_types,
                              int64_t l_max)
{
  const int64_t channels = channels_of(jets, l_max), components = (l_max + 1) * (l_max + 1);
  const at::Tensor out = at::empty(vectors.sizes(), vectors.options());
  AT_DISPATCH_FLOATING_TYPES(jets.scalar_type(), "expansion_gradient", [&] {
    auto n = neighbourhoods_of<scalar_t>(vectors, channels, order, first, of_edge, num_types);
    set_jets(n, jets, l_max);
    check_field(field, jets.scalar_type(), n.num_sums, num_types, components, channels);
    with_degree(l_max, [&]<int L>() {
      in_parallel_parts(at::get_num_threads(), n.num_pairs, [&](int64_t begin, int64_t end) {
        differentiate<scalar_t, L>(n, field.const_data_ptr<scalar_t>(), begin, end,
                                   out.mutable_data_ptr<double>());
      });
    });
  });
  return out;
}

at::Tensor expansion_jets(const at::Tensor &of_loss, const std::optional<at::Tensor> &field,
                          const at::Tensor &vectors, const std::optional<at::Tensor> &along,
                          const at::Tensor &order, const at::Tensor &first,
                          const at::Tensor &of_edge, int64_t num_types, int64_t l_max)
{
  TORCH_CHECK(l_max >= 0 && l_max <= kMaxL && of_loss.dim() == 4 &&
                  field.has_value() == along.has_value(),
              "kan_md::expansion: degrees up to ", kMaxL,
              ", and a field with the vectors that its gradient is multiplied by");
  const int64_t channels = of_loss.size(3), components = (l_max + 1) * (l_max + 1);
  const at::Tensor out = at::empty({2, vectors.size(0), (l_max + 1) * channels}, of_loss.options());
  AT_DISPATCH_FLOATING_TYPES(of_loss.scalar_type(), "expansion_jets", [&] {
    auto n = neighbourhoods_of<scalar_t>(vectors, channels, order, first, of_edge, num_types);
    const auto check = [&](const at::Tensor &t) {
      check_field(t, of_loss.scalar_type(), n.num_sums, num_types, components, channels);
    };
    check(of_loss);
    if (field) {
      check(*field);
      check_vectors(*along, vectors);
      n.along = along->const_data_ptr<double>();
    }
    const scalar_t *const h = of_loss.const_data_ptr<scalar_t>();
    scalar_t *const result = out.mutable_data_ptr<scalar_t>();
    with_degree(l_max, [&]<int L>() {
      in_parallel_parts(at::get_num_threads(), n.num_pairs, [&](int64_t begin, int64_t end) {
        if (field)
          differentiate_jets<scalar_t, 2, L>(n, field->const_data_ptr<scalar_t>(), h, begin, end,
                                             result);
        else
          differentiate_jets<scalar_t, 1, L>(n, nullptr, h, begin, end, result);
      });
    });
  });
  return out;
}

}    // namespace kan_md::ops
