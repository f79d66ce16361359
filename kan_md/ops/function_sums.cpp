// Sums of univariate functions with small tables, for training. kan_md/ops/function_sums.py says
// which functions there are; its plain torch kernels define what these compute.
//
// A vector holds neighbouring inputs of one point; rows and tables are padded to whole vectors. The
// rows R_r of a family come one after the other out of registers; those of a B-spline are masks of its
// cells. Multiplying by every mask is faster than gathering the coefficients of one cell, up to a few
// tens of cells.

#include "activation.h"
#include "basis.h"
#include "ops.h"
#include "simd.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace kan_md::ops {
namespace {

constexpr int kMostPowers = 16;
constexpr int kMostRest = 3;
constexpr int kUnroll = 4;                 // points that share a load and a store of a moment
constexpr int64_t kPointsInCache = 64;     // a multiple of kUnroll
constexpr int64_t kPointsPerSum = 1024;    // fixed: the bits of a sum do not depend on the threads

// The grids of one vector of inputs.
template <typename T> struct Grid {
  Vec<T> scale, low, high, zero, step, home;    // home: the cell of 0, for B-splines
  T last_cell;
};

// One vector of inputs of one point in grid coordinates. Differences are taken where they are used: a
// compiler that fuses x * scale - inside would find points inside the grid beyond it.
template <typename T> struct Place {
  KAN_MD_INLINE Place(Vec<T> x, const Grid<T> &g) :
      grid(g), s(x * g.scale), inside(s < g.low ? g.low : s)
  {
    inside = inside > g.high ? g.high : inside;
  }
  // what the tables of the tails multiply
  KAN_MD_INLINE Vec<T> below(int64_t order) const
  {
    return s < grid.low ? (order ? fill<T>(1) : s - grid.low) : fill<T>(0);
  }
  KAN_MD_INLINE Vec<T> above(int64_t order) const
  {
    return s > grid.high ? (order ? fill<T>(1) : s - grid.high) : fill<T>(0);
  }
  const Grid<T> &grid;
  Vec<T> s, inside;
};

// The rows of each family, in the order of next(); power is what s^p is a power of.

template <typename T> class SplineRows {
 public:
  static int64_t place_in_table(int64_t row, int64_t) { return row; }

  KAN_MD_INLINE SplineRows(Vec<T> inside, const Grid<T> &grid, bool) :
      cell_(cell_of<T>(inside + grid.zero, grid.last_cell)), power(inside - (cell_ - grid.home))
  {
  }

  KAN_MD_INLINE Vec<T> next()
  {
    const Vec<T> row = cell_ == 0 ? fill<T>(1) : fill<T>(0);
    cell_ -= 1;
    return row;
  }

 private:
  Vec<T> cell_;

 public:
  const Vec<T> power;
};

// exp(-s^2 - 2 s d_m) = first * ratio^m
template <typename T> class GaussianRows {
 public:
  static int64_t place_in_table(int64_t row, int64_t) { return row; }

  KAN_MD_INLINE GaussianRows(Vec<T> inside, const Grid<T> &grid, bool shifted) :
      power(inside), value_(vector_exp<T>(-inside * (inside + 2 * grid.zero))),
      ratio_(vector_exp<T>(2 * inside)), at_zero_(fill<T>(shifted ? 1 : 0))
  {
  }

  KAN_MD_INLINE Vec<T> next()
  {
    const Vec<T> row = value_ - at_zero_;
    value_ *= ratio_;
    return row;
  }

  const Vec<T> power;

 private:
  Vec<T> value_, ratio_, at_zero_;
};

// Sine and cosine of one frequency follow each other here; in a table all sines come first.
template <typename T> class FourierRows {
 public:
  static int64_t place_in_table(int64_t row, int64_t num_rows)
  {
    return row % 2 * (num_rows / 2) + row / 2;
  }

  KAN_MD_INLINE FourierRows(Vec<T> inside, const Grid<T> &, bool shifted) :
      power(inside), at_zero_(fill<T>(shifted ? 1 : 0))
  {
    sine_and_cosine<T>(inside, sine1_, cosine1_);
    sine_ = sine1_;
    cosine_ = cosine1_;
  }

  KAN_MD_INLINE Vec<T> next()
  {
    cosine_is_next_ = !cosine_is_next_;
    if (cosine_is_next_) return sine_;
    const Vec<T> row = cosine_ - at_zero_, sine = sine_;
    sine_ = sine * cosine1_ + cosine_ * sine1_;
    cosine_ = cosine_ * cosine1_ - sine * sine1_;
    return row;
  }

  const Vec<T> power;

 private:
  Vec<T> sine1_, cosine1_, sine_, cosine_, at_zero_;
  bool cosine_is_next_ = false;
};

// Derivatives of silu(z) = z sigma(z): z sigma^(k) + k sigma^(k-1), with sigma^(k) = sigma (1 - sigma)
// Q_k(sigma), Q_1 = 1 and Q_(k+1)(y) = (1 - 2 y) Q_k(y) + y (1 - y) Q_k'(y).
template <typename T> class SiluDerivative {
 public:
  explicit SiluDerivative(int64_t order) : order_(order), q_{1}, q_before_{0}
  {
    for (int64_t k = 1; k < order; ++k) {
      q_before_ = q_;
      q_.assign(k + 1, 0);
      for (int64_t p = 0; p < k; ++p) {
        q_[p] += static_cast<T>(p + 1) * q_before_[p];
        q_[p + 1] -= static_cast<T>(p + 2) * q_before_[p];
      }
    }
  }

  KAN_MD_INLINE Vec<T> operator()(Vec<T> z) const
  {
    const Vec<T> sigma = 1 / (1 + vector_exp<T>(-z));
    if (order_ == 0) return z * sigma;
    const Vec<T> edge = sigma * (1 - sigma);
    if (order_ == 1) return z * edge + sigma;
    return edge *
           (z * polynomial(q_, sigma) + static_cast<T>(order_) * polynomial(q_before_, sigma));
  }

 private:
  static Vec<T> polynomial(const std::vector<T> &coefficients, Vec<T> y)
  {
    Vec<T> value{};
    for (auto c = coefficients.rbegin(); c != coefficients.rend(); ++c) value = value * y + *c;
    return value;
  }

  int64_t order_;
  std::vector<T> q_, q_before_;
};

struct Sizes {
  int64_t points, inputs, rows, powers, rest;
};

// What the tables are the coefficients of.
template <typename T> struct Functions {
  Functions(const at::Tensor &scale, const at::Tensor &grid, int64_t steps, int64_t order,
            bool shifted, const Sizes &sizes) :
      size(sizes), order(order), shifted(shifted), silu(order)
  {
    const T *factor = scale.const_data_ptr<T>();
    const T *zero = grid.const_data_ptr<T>(), *step = zero + size.inputs;
    const T last_cell = static_cast<T>(size.rows - 1);
    for (int64_t i = 0; i < size.inputs; i += Simd<T>::kLanes) {
      const Vec<T> z = load(zero + i);
      grids.push_back({load(factor + i), -z, static_cast<T>(steps) - z, z, load(step + i),
                       cell_of<T>(z, last_cell), last_cell});
    }
  }

  Sizes size;
  int64_t order;
  bool shifted;
  SiluDerivative<T> silu;
  std::vector<Grid<T>> grids;
};

// A matrix [points, inputs], or [points, 1] for equal columns.
template <typename T> struct Weights {
  KAN_MD_INLINE Vec<T> at(int64_t n, int64_t i) const
  {
    const T *p = data + n * row_stride;
    return one_column ? fill<T>(*p) : load(p + i);
  }
  const T *data;
  int64_t row_stride;
  bool one_column;
};

// Per vector of inputs: w [rows, powers] in the order of next(), then rest.
template <typename T, template <typename> class Rows>
std::vector<Vec<T>> pack(const Functions<T> &f, const T *w, const T *rest)
{
  const auto [points, inputs, rows, powers, num_rest] = f.size;
  std::vector<Vec<T>> packed;
  for (int64_t i = 0; i < inputs; i += Simd<T>::kLanes) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t p = 0; p < powers; ++p) {
        const int64_t at = Rows<T>::place_in_table(r, rows) * powers + p;
        packed.push_back(load(w + at * inputs + i));
      }
    for (int64_t r = 0; r < num_rest; ++r) packed.push_back(load(rest + r * inputs + i));
  }
  return packed;
}

// The functions of one vector of inputs; moves `table` on to the next vector. Powers: the number of
// powers where the compiler knows it, else 0.
template <typename T, template <typename> class Rows, int Powers>
KAN_MD_INLINE Vec<T> evaluate(const Functions<T> &f, const Place<T> &place, const Vec<T> *&table)
{
  const int powers = Powers ? Powers : static_cast<int>(f.size.powers);
  Rows<T> row(place.inside, place.grid, f.shifted);
  Vec<T> sums[Powers ? Powers : kMostPowers] = {};
  for (int64_t r = 0; r < f.size.rows; ++r) {
    const Vec<T> now = row.next();
    for (int p = 0; p < powers; ++p) sums[p] += now * *table++;
  }
  Vec<T> value = sums[powers - 1];
  for (int p = powers - 2; p >= 0; --p) value = value * row.power + sums[p];
  if (f.order > 0) value = place.s == place.inside ? value : fill<T>(0);
  value += table[0] * place.below(f.order);
  value += table[1] * place.above(f.order);
  if (f.size.rest == kMostRest) value += table[2] * f.silu(place.grid.step * place.s);
  table += f.size.rest;
  return value;
}

// Calls body(part) for each part, a thread's one after the other.
template <typename Body> void for_each_part(int64_t parts, Body &&body)
{
  in_parallel_parts(at::get_num_threads(), parts, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) body(part);
  });
}

template <typename T, template <typename> class Rows, int Powers>
void sum_inputs(const Functions<T> &f, const T *x, const T *w, const T *rest, T *result)
{
  const std::vector<Vec<T>> tables = pack<T, Rows>(f, w, rest);
  in_parallel_parts(at::get_num_threads(), f.size.points, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Vec<T> *table = tables.data();
      const T *row = x + n * f.size.inputs;
      Vec<T> total{};
      for (int64_t i = 0; i < f.size.inputs; i += Simd<T>::kLanes) {
        const Place<T> place(load(row + i), f.grids[i / Simd<T>::kLanes]);
        total += evaluate<T, Rows, Powers>(f, place, table);
      }
      result[n] = sum<T>(total);
    }
  });
}

// values: g phi, times scale if there are x_sums [inputs], which are the sums of x g phi.
template <typename T, template <typename> class Rows, int Powers>
void weigh(const Functions<T> &f, const T *x, const Weights<T> &g, const T *w, const T *rest,
           T *values, T *x_sums)
{
  const std::vector<Vec<T>> tables = pack<T, Rows>(f, w, rest);
  const int64_t parts = blocks(f.size.points, kPointsPerSum);
  const int64_t vectors = blocks(f.size.inputs, Simd<T>::kLanes);
  std::vector<Vec<T>> sums(parts * vectors);
  for_each_part(parts, [&](int64_t part) {
    const int64_t end = std::min(f.size.points, (part + 1) * kPointsPerSum);
    for (int64_t n = part * kPointsPerSum; n < end; ++n) {
      const Vec<T> *table = tables.data();
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t i = v * Simd<T>::kLanes, at = n * f.size.inputs + i;
        const Vec<T> here = load(x + at);
        Vec<T> value = evaluate<T, Rows, Powers>(f, Place<T>(here, f.grids[v]), table);
        value *= g.at(n, i);
        if (x_sums) {
          sums[part * vectors + v] += here * value;
          value *= f.grids[v].scale;
        }
        store(values + at, value);
      }
    }
  });
  for (int64_t v = 0; x_sums && v < vectors; ++v) {
    Vec<T> total{};
    for (int64_t part = 0; part < parts; ++part) total += sums[part * vectors + v];
    store(x_sums + v * Simd<T>::kLanes, total);
  }
}

// Adds the points [begin, end), at most kPointsInCache, to the moments of the vector of inputs from i:
// sums [rows, powers], then [rest].
template <typename T, template <typename> class Rows, int Powers>
void add_points(const Functions<T> &f, const T *x, const Weights<T> &g, int64_t begin, int64_t end,
                int64_t i, Vec<T> *sums)
{
  const Grid<T> &grid = f.grids[i / Simd<T>::kLanes];
  Vec<T> inside[kPointsInCache], weights[kPointsInCache], rest[kMostRest] = {};
  for (int64_t n = begin; n < end; ++n) {
    const Place<T> place(load(x + n * f.size.inputs + i), grid);
    const Vec<T> weight = g.at(n, i);
    rest[0] += weight * place.below(f.order);
    rest[1] += weight * place.above(f.order);
    if (f.size.rest == kMostRest) rest[2] += weight * f.silu(grid.step * place.s);
    inside[n - begin] = place.inside;
    weights[n - begin] = f.order == 0 ? weight : place.s == place.inside ? weight : fill<T>(0);
  }
  int64_t points = end - begin;
  for (; points % kUnroll != 0; ++points) inside[points] = weights[points] = fill<T>(0);
  const int powers = Powers ? Powers : static_cast<int>(f.size.powers);
  for (int64_t n = 0; n < points; n += kUnroll) {
    Rows<T> row[kUnroll] = {{inside[n], grid, f.shifted},
                            {inside[n + 1], grid, f.shifted},
                            {inside[n + 2], grid, f.shifted},
                            {inside[n + 3], grid, f.shifted}};
    Vec<T> factors[kUnroll][Powers ? Powers : kMostPowers];
    for (int j = 0; j < kUnroll; ++j) {
      factors[j][0] = weights[n + j];
      for (int p = 1; p < powers; ++p) factors[j][p] = factors[j][p - 1] * row[j].power;
    }
    Vec<T> *sum = sums;
    for (int64_t r = 0; r < f.size.rows; ++r) {
      const Vec<T> now[kUnroll] = {row[0].next(), row[1].next(), row[2].next(), row[3].next()};
      for (int p = 0; p < powers; ++p, ++sum)
        *sum += (now[0] * factors[0][p] + now[1] * factors[1][p]) +
                (now[2] * factors[2][p] + now[3] * factors[3][p]);
    }
  }
  Vec<T> *sides = sums + f.size.rows * powers;
  for (int64_t r = 0; r < f.size.rest; ++r) sides[r] += rest[r];
}

template <typename T, template <typename> class Rows, int Powers>
void moments(const Functions<T> &f, const T *x, const Weights<T> &g, T *w, T *rest)
{
  const auto [points, inputs, rows, powers, num_rest] = f.size;
  const int64_t parts = blocks(points, kPointsPerSum), vectors = blocks(inputs, Simd<T>::kLanes);
  const int64_t size = rows * powers + num_rest;
  std::vector<Vec<T>> sums(parts * vectors * size);
  for_each_part(parts, [&](int64_t part) {
    const int64_t end = std::min(f.size.points, (part + 1) * kPointsPerSum);
    for (int64_t n = part * kPointsPerSum; n < end; n += kPointsInCache)
      for (int64_t v = 0; v < vectors; ++v)
        add_points<T, Rows, Powers>(f, x, g, n, std::min(end, n + kPointsInCache),
                                    v * Simd<T>::kLanes, sums.data() + (part * vectors + v) * size);
  });
  for (int64_t v = 0; v < vectors; ++v)
    for (int64_t k = 0; k < size; ++k) {
      Vec<T> total{};
      for (int64_t part = 0; part < parts; ++part) total += sums[(part * vectors + v) * size + k];
      const int64_t i = v * Simd<T>::kLanes, r = Rows<T>::place_in_table(k / powers, rows);
      T *row = k < rows * powers ? w + (r * powers + k % powers) * inputs
                                 : rest + (k - rows * powers) * inputs;
      store(row + i, total);
    }
}

// call<T, Rows, Powers>() for a dtype, a basis and a number of powers.
template <typename Call>
void dispatch(const at::Tensor &s, c10::string_view basis, int64_t powers, Call call)
{
  const auto with_powers = [&]<typename T, template <typename> class Rows>() {
    switch (powers) {
      case 1:
        return call.template operator()<T, Rows, 1>();
      case 2:
        return call.template operator()<T, Rows, 2>();
      case 3:
        return call.template operator()<T, Rows, 3>();
      case 4:
        return call.template operator()<T, Rows, 4>();
      default:
        return call.template operator()<T, Rows, 0>();
    }
  };
  const auto with_basis = [&]<typename T>() {
    if (basis == "bspline") return with_powers.template operator()<T, SplineRows>();
    if (basis == "gaussian") return with_powers.template operator()<T, GaussianRows>();
    return with_powers.template operator()<T, FourierRows>();
  };
  if (s.scalar_type() == at::kFloat) return with_basis.template operator()<float>();
  return with_basis.template operator()<double>();
}

// Refuses what does not fit together; name: of the operator, for messages.
void check(const char *name, const at::Tensor &x, const at::Tensor &scale, const at::Tensor &grid,
           c10::string_view basis, int64_t order, const Sizes &size)
{
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, "kan_md::", name,
              ": float32 or float64, got ", x.scalar_type());
  TORCH_CHECK(scale.dim() == 1 && scale.size(0) == size.inputs && grid.dim() == 2 &&
                  grid.size(0) == 2 && grid.size(1) == size.inputs,
              "kan_md::", name, ": x [points, inputs], scale [inputs] and grid [2, inputs], got ",
              x.sizes(), ", ", scale.sizes(), " and ", grid.sizes());
  TORCH_CHECK(basis == "bspline" || basis == "gaussian" || basis == "fourier", "kan_md::", name,
              ": basis must be bspline, gaussian or fourier, got ", basis);
  TORCH_CHECK(order >= 0, "kan_md::", name, ": order must be >= 0, got ", order);
  TORCH_CHECK(size.rows >= 1 && (basis != "fourier" || size.rows % 2 == 0), "kan_md::", name,
              ": rows must be >= 1, and even for fourier, got ", size.rows);
  TORCH_CHECK(size.powers >= 1 && size.powers <= kMostPowers, "kan_md::", name,
              ": powers must be 1 to ", kMostPowers, ", got ", size.powers);
  TORCH_CHECK(size.rest == kMostRest - 1 || size.rest == kMostRest, "kan_md::", name,
              ": rest must have 2 or 3 rows, got ", size.rest);
}

Sizes sizes_of(const char *name, const at::Tensor &x, const at::Tensor &w, const at::Tensor &rest)
{
  TORCH_CHECK(x.dim() == 2 && w.dim() == 3 && rest.dim() == 2 && w.size(2) == x.size(1) &&
                  rest.size(1) == x.size(1),
              "kan_md::", name,
              ": x [points, inputs], w [rows, powers, inputs] and rest [2 or 3, inputs], got ",
              x.sizes(), ", ", w.sizes(), " and ", rest.sizes());
  return {x.size(0), x.size(1), w.size(0), w.size(1), rest.size(0)};
}

void check_dtypes(const char *name, const at::Tensor &x, at::TensorList others)
{
  for (const at::Tensor &t : others)
    TORCH_CHECK(t.scalar_type() == x.scalar_type(), "kan_md::", name,
                ": all tensors must share one dtype, got ", x.scalar_type(), " and ",
                t.scalar_type());
}

// In one piece, with the last axis padded to whole vectors by zeros.
at::Tensor padded(const at::Tensor &t)
{
  const int64_t lanes = kVectorBytes / t.element_size(),
                missing = (lanes - t.size(-1) % lanes) % lanes;
  return missing == 0 ? t.contiguous() : at::constant_pad_nd(t, {0, missing});
}

at::Tensor without_padding(const at::Tensor &t, int64_t size)
{
  return t.narrow(-1, 0, size).contiguous();
}

// g as Weights want it: rows may lie anywhere.
at::Tensor weight_rows(const char *name, const at::Tensor &g, const at::Tensor &x)
{
  TORCH_CHECK(g.dim() == 2 && g.size(0) == x.size(0) && (g.size(1) == x.size(1) || g.size(1) == 1),
              "kan_md::", name, ": g [points, inputs] or [points, 1] for x ", x.sizes(), ", got ",
              g.sizes());
  const bool one_column = g.size(1) == 1 || (g.size(1) > 1 && g.stride(1) == 0);
  return one_column ? g.narrow(1, 0, 1) : padded(g);
}

template <typename T> Weights<T> weights_of(const at::Tensor &g)
{
  return {g.const_data_ptr<T>(), g.stride(0), g.size(1) == 1};
}

// (g phi, empty), or with gradients (g phi scale, sum_n x g phi).
std::tuple<at::Tensor, at::Tensor>
weighed(const char *name, const at::Tensor &x, const at::Tensor &scale, const at::Tensor &g,
        const at::Tensor &w, const at::Tensor &rest, const at::Tensor &grid, c10::string_view basis,
        int64_t steps, int64_t order, bool shifted, bool gradients)
{
  Sizes size = sizes_of(name, x, w, rest);
  check(name, x, scale, grid, basis, order, size);
  check_dtypes(name, x, {scale, g, w, rest, grid});
  const at::Tensor x_ = padded(x), scale_ = padded(scale), grid_ = padded(grid);
  const at::Tensor g_ = weight_rows(name, g, x), w_ = padded(w), rest_ = padded(rest);
  size.inputs = x_.size(1);
  const at::Tensor values = at::empty(x_.sizes(), x_.options());
  const at::Tensor x_sums = gradients ? at::empty(scale_.sizes(), x_.options()) : at::Tensor();
  dispatch(x, basis, size.powers, [&]<typename T, template <typename> class Rows, int Powers>() {
    const Functions<T> functions(scale_, grid_, steps, order, shifted, size);
    weigh<T, Rows, Powers>(functions, x_.const_data_ptr<T>(), weights_of<T>(g_),
                           w_.const_data_ptr<T>(), rest_.const_data_ptr<T>(),
                           values.mutable_data_ptr<T>(),
                           gradients ? x_sums.mutable_data_ptr<T>() : nullptr);
  });
  return {without_padding(values, x.size(1)),
          gradients ? without_padding(x_sums, x.size(1)) : x_sums};
}

}    // namespace

at::Tensor function_sums(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &w,
                         const at::Tensor &rest, const at::Tensor &grid, c10::string_view basis,
                         int64_t steps, int64_t order, bool shifted)
{
  const char *name = "function_sums";
  Sizes size = sizes_of(name, x, w, rest);
  check(name, x, scale, grid, basis, order, size);
  check_dtypes(name, x, {scale, w, rest, grid});
  const at::Tensor x_ = padded(x), scale_ = padded(scale), grid_ = padded(grid);
  const at::Tensor w_ = padded(w), rest_ = padded(rest);
  size.inputs = x_.size(1);
  const at::Tensor result = at::empty({size.points}, x.options());
  dispatch(x, basis, size.powers, [&]<typename T, template <typename> class Rows, int Powers>() {
    const Functions<T> functions(scale_, grid_, steps, order, shifted, size);
    sum_inputs<T, Rows, Powers>(functions, x_.const_data_ptr<T>(), w_.const_data_ptr<T>(),
                                rest_.const_data_ptr<T>(), result.mutable_data_ptr<T>());
  });
  return result;
}

at::Tensor function_values(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &g,
                           const at::Tensor &w, const at::Tensor &rest, const at::Tensor &grid,
                           c10::string_view basis, int64_t steps, int64_t order, bool shifted)
{
  return std::get<0>(
      weighed("function_values", x, scale, g, w, rest, grid, basis, steps, order, shifted, false));
}

std::tuple<at::Tensor, at::Tensor>
function_gradients(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &g,
                   const at::Tensor &w, const at::Tensor &rest, const at::Tensor &grid,
                   c10::string_view basis, int64_t steps, int64_t order, bool shifted)
{
  return weighed("function_gradients", x, scale, g, w, rest, grid, basis, steps, order, shifted,
                 true);
}

std::tuple<at::Tensor, at::Tensor> function_moments(const at::Tensor &x, const at::Tensor &scale,
                                                    const at::Tensor &g, const at::Tensor &grid,
                                                    c10::string_view basis, int64_t steps,
                                                    int64_t order, bool shifted, int64_t num_rows,
                                                    int64_t num_powers, int64_t num_rest)
{
  const char *name = "function_moments";
  TORCH_CHECK(x.dim() == 2, "kan_md::", name, ": x [points, inputs], got ", x.sizes());
  Sizes size{x.size(0), x.size(1), num_rows, num_powers, num_rest};
  check(name, x, scale, grid, basis, order, size);
  check_dtypes(name, x, {scale, g, grid});
  const at::Tensor x_ = padded(x), scale_ = padded(scale), grid_ = padded(grid);
  const at::Tensor g_ = weight_rows(name, g, x);
  size.inputs = x_.size(1);
  const at::Tensor w = at::empty({num_rows, num_powers, size.inputs}, x.options());
  const at::Tensor rest = at::empty({num_rest, size.inputs}, x.options());
  dispatch(x, basis, size.powers, [&]<typename T, template <typename> class Rows, int Powers>() {
    const Functions<T> functions(scale_, grid_, steps, order, shifted, size);
    moments<T, Rows, Powers>(functions, x_.const_data_ptr<T>(), weights_of<T>(g_),
                             w.mutable_data_ptr<T>(), rest.mutable_data_ptr<T>());
  });
  return {without_padding(w, x.size(1)), without_padding(rest, x.size(1))};
}

}    // namespace kan_md::ops
