// Message-passing convolution of NequIP and MACE as one operator, with its reverse.
//
// out_i[p, m3, k] = sum_j sum_{m1 m2} C^p_{m1 m2 m3} R^p_k(r_ij) Y_{l2 m2}(r̂_ij) H_j[m1, k]
//
// The sum over neighbours is taken before the Clebsch-Gordan contraction, channels are the vector
// direction, and a thread walks one cache line of channels through all its centres before the next,
// so that the table slice of that line stays in its L2 cache.

#include "convolution_kernels.h"
#include "convolution_plan.h"
#include "neighbours.h"
#include "ops.h"

#include "core/parallel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace kan_md::ops {
namespace {

void check(const ConvolutionPlan &plan, const at::Tensor &edge_vectors, const at::Tensor &x,
           const at::Tensor &edge_index, const at::Tensor &atom_types, const at::Tensor &table,
           const at::Tensor &cutoffs)
{
  const int64_t num_edges = edge_index.size(1), num_atoms = atom_types.numel();
  TORCH_CHECK(
      edge_vectors.dim() == 2 && edge_vectors.size(0) == num_edges && edge_vectors.size(1) == 3,
      "kan_md::convolution: edge_vectors must be [", num_edges, ", 3], got ", edge_vectors.sizes());
  TORCH_CHECK(x.dim() == 1 && x.numel() == num_atoms * plan.in_dim,
              "kan_md::convolution: x must be [", num_atoms, " * ", plan.in_dim, "], got ",
              x.sizes());
  TORCH_CHECK(table.dim() == 2 && table.size(1) == plan.table_size,
              "kan_md::convolution: table must be [num_pairs, ", plan.table_size, "], got ",
              table.sizes());
  TORCH_CHECK(cutoffs.scalar_type() == at::kDouble && cutoffs.numel() == table.size(0),
              "kan_md::convolution: one float64 cutoff per table, got ", cutoffs.numel(), " for ",
              table.size(0));
  TORCH_CHECK(table.scalar_type() == x.scalar_type(),
              "kan_md::convolution: table and x differ in dtype");
  TORCH_CHECK(num_atoms < INT32_MAX, "kan_md::convolution: too many atoms, got ", num_atoms);
}

// features: [atom, 2l+1, block] of one block of channels, the rest of the line filled with zeros.
template <typename T>
void pack_block(const Group &group, const T *x, int64_t num_atoms, int64_t block_number,
                int64_t begin, int64_t end, T *features)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t rows = 2 * group.l1 + 1, from = block_number * kBlock;
  const int64_t width = std::min<int64_t>(kBlock, group.channels - from);
  for (int64_t i = begin; i < end; ++i)
    for (int64_t m = 0; m < rows; ++m) {
      const T *source = x + num_atoms * group.in_offset + (i * rows + m) * group.channels + from;
      T *target = features + (i * rows + m) * kBlock;
      std::copy_n(source, width, target);
      std::fill(target + width, target + kBlock, T(0));
    }
}

// The graph and model data that both directions read.
template <typename T> struct Inputs {
  const ConvolutionPlan &plan;
  const CentreRanges &ranges;
  const EdgeTerms<T> &edges;
  const T *x, *packed;
  const T *table;
  int64_t num_atoms, num_rows;    // atoms; the first of these have rows in the output

  // [num_atoms, 2l+1] rows of one block of channels in something of the layout of x, or in something
  // of the layout of packed: for each packed group and block [num_atoms, 2l+1, block].
  template <typename Value>
  Value *rows(const Group &group, int64_t block, Value *of_x, Value *of_packed) const
  {
    if (!group.is_packed) return of_x + num_atoms * group.in_offset + block * Simd<T>::kBlock;
    return of_packed +
           (group.packed_offset + block * (2 * group.l1 + 1)) * num_atoms * Simd<T>::kBlock;
  }
  // From one row to the next.
  static int64_t stride(const Group &group)
  {
    return group.is_packed ? Simd<T>::kBlock : group.channels;
  }
  // Row m3 = 0 of an atom in the output of a path, and the distance to the next row.
  int64_t out_at(const Path &path, int64_t i) const
  {
    return num_rows * plan.out_offsets[path.output] +
           i * (2 * path.l3 + 1) * plan.out_channels[path.output] + path.out_channel;
  }
  int64_t out_stride(const Path &path) const { return plan.out_channels[path.output]; }
  // First knot row of an edge, all paths of the group.
  const T *row(const Group &group, int64_t block, int64_t row_size, int64_t e) const
  {
    return table + edges.pair.get()[e] * plan.table_size + group.table_offset +
           (block * plan.num_knots + edges.knot.get()[e]) * row_size;
  }
};

// Copies of the packed groups' features of the atoms [begin, end).
template <typename T> void pack_part(const Inputs<T> &in, int64_t begin, int64_t end, T *packed)
{
  for (const Group &group : in.plan.groups)
    for (int64_t b = 0; group.is_packed && b < group.num_blocks; ++b)
      pack_block<T>(group, in.x, in.num_atoms, b, begin, end, in.rows(group, b, packed, packed));
}

template <typename T> int64_t row_size_of(const ConvolutionPlan &plan, const Group &group)
{
  return static_cast<int64_t>(group.paths.size()) * plan.knot_values * Simd<T>::kBlock;
}

// From a path's first value at a knot to what the fourth weight of two knots multiplies.
template <typename T> int64_t to_fourth_of(const ConvolutionPlan &plan, const Group &group)
{
  return plan.with_steps() ? (kKnotValues - 1) * Simd<T>::kBlock : row_size_of<T>(plan, group);
}

template <typename T>
void forward_block(const Inputs<T> &in, const Group &group, int64_t block, int64_t begin,
                   int64_t end, std::vector<const T *> &rows, T *radial, T *phi, T *out)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t row_size = row_size_of<T>(in.plan, group), from = block * kBlock;
  const int64_t to_fourth = to_fourth_of<T>(in.plan, group);
  const int64_t width = std::min<int64_t>(kBlock, group.channels - from);
  const T *features = in.rows(group, block, in.x, in.packed);
  const int num_harmonics = in.edges.num_harmonics;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = in.ranges.first[i], count = in.ranges.first[i + 1] - first;
    rows.resize(count);
    for (int64_t e = 0; e < count; ++e) rows[e] = in.row(group, block, row_size, first + e);
    for (size_t p = 0; p < group.paths.size(); ++p) {
      const Path &path = group.paths[p];
      T target[(4 * kMaxL + 1) * kBlock];
      const int num_targets = 2 * path.l3 + 1;
      std::fill_n(target, num_targets * kBlock, T(0));
      if (count > 0) {
        radial_of_path<T>(count, rows.data(), p * in.plan.knot_values * kBlock, row_size, to_fourth,
                          in.edges.weights.get() + first * kSplineWeights, radial);
        forward_kernel<T>(path.l1, path.l2)(
            count, radial, features, in.stride(group), in.edges.neighbour.get() + first,
            in.edges.harmonics.get() + first * num_harmonics + path.l2 * path.l2, num_harmonics,
            phi);
        for (const Coupling &c : path.couplings) {
          const T value = static_cast<T>(c.value);
          for (int k = 0; k < kBlock; ++k)
            target[c.target * kBlock + k] += value * phi[c.source * kBlock + k];
        }
      }
      T *row = out + in.out_at(path, i) + from;
      for (int m = 0; m < num_targets; ++m)
        std::copy_n(target + m * kBlock, width, row + m * in.out_stride(path));
    }
  }
}

template <typename T>
void reverse_block(const Inputs<T> &in, const Group &group, int64_t block, int64_t begin,
                   int64_t end, std::vector<ReverseKernel<T>> &kernels, const T *out_grad,
                   T *phi_grad, T *feature_grad, T *harmonics_grad, T *edge_harmonics_grad,
                   T *edge_radial_grad)
{
  constexpr int kBlock = Simd<T>::kBlock, kLanes = Simd<T>::kLanes;
  const int64_t row_size = row_size_of<T>(in.plan, group), from = block * kBlock;
  const int64_t to_fourth = to_fourth_of<T>(in.plan, group);
  const int64_t width = std::min<int64_t>(kBlock, group.channels - from);
  const int64_t row_stride = in.stride(group), stride = (2 * group.l1 + 1) * row_stride;
  const T *features = in.rows(group, block, in.x, in.packed);
  const int num_harmonics = in.edges.num_harmonics;
  const size_t num_paths = group.paths.size();
  kernels.resize(num_paths);
  for (size_t p = 0; p < num_paths; ++p)
    kernels[p] = reverse_kernel<T>(group.paths[p].l1, group.paths[p].l2);

  for (int64_t i = begin; i < end; ++i) {
    if (in.ranges.first[i] == in.ranges.first[i + 1]) continue;
    std::fill_n(phi_grad, group.num_sources * kBlock, T(0));
    for (const Path &path : group.paths) {
      T target[(4 * kMaxL + 1) * kBlock] = {};
      for (int m = 0; m <= 2 * path.l3; ++m)
        std::copy_n(out_grad + in.out_at(path, i) + m * in.out_stride(path) + from, width,
                    target + m * kBlock);
      T *source = phi_grad + path.source_offset * kBlock;
      for (const Coupling &c : path.couplings) {
        const T value = static_cast<T>(c.value);
        for (int k = 0; k < kBlock; ++k)
          source[c.source * kBlock + k] += value * target[c.target * kBlock + k];
      }
    }
    for (int64_t e = in.ranges.first[i]; e < in.ranges.first[i + 1]; ++e) {
      const T *row = in.row(group, block, row_size, e);
      const int64_t j = in.edges.neighbour.get()[e];
      const T *w = in.edges.weights.get() + e * kSplineWeights;
      const T *s = in.edges.slopes.get() + e * kSplineWeights;
      const T *y = in.edges.harmonics.get() + e * num_harmonics;
      T radial_grad[kLanes] = {};
      std::fill_n(harmonics_grad, num_harmonics * kLanes, T(0));
      for (size_t p = 0; p < num_paths; ++p) {
        const Path &path = group.paths[p];
        const T *low = row + p * in.plan.knot_values * kBlock;
        const int lm = path.l2 * path.l2;
        kernels[p](w, s, low, low + to_fourth, low + row_size, features + j * stride,
                   feature_grad + j * stride, row_stride, y + lm,
                   phi_grad + path.source_offset * kBlock, harmonics_grad + lm * kLanes,
                   radial_grad);
      }
      edge_radial_grad[e] += sum<T>(load(radial_grad));
      T *g = edge_harmonics_grad + e * num_harmonics;
      for (int m = 0; m < num_harmonics; ++m) g[m] += sum<T>(load(harmonics_grad + m * kLanes));
    }
  }
}

// Number of edges, sorted by centre, of the first centres.
int64_t edges_of_first(const at::Tensor &edge_index, int64_t num_centres)
{
  const int64_t *centre = edge_index.const_data_ptr<int64_t>();
  return std::lower_bound(centre, centre + edge_index.size(1), num_centres) - centre;
}

// Contiguous copies of what the kernels read by pointer, without the edges that are left out.
struct Arguments {
  at::Tensor edge_vectors, x, edge_index, atom_types, table, cutoffs;
  int64_t num_all_edges, num_rows;    // edges of all centres; atoms with messages
  Arguments(const at::Tensor &edge_vectors_, const at::Tensor &x_, const at::Tensor &edge_index_,
            const at::Tensor &atom_types_, const at::Tensor &table_, const at::Tensor &cutoffs_,
            const std::optional<at::Tensor> &num_centres, int64_t num_rows_) :
      edge_vectors(edge_vectors_.contiguous()), x(x_.contiguous()),
      edge_index(edge_index_.contiguous()), atom_types(atom_types_.contiguous()),
      table(table_.contiguous()), cutoffs(cutoffs_.contiguous()), num_all_edges(edge_index.size(1)),
      num_rows(num_rows_)
  {
    TORCH_CHECK(num_rows <= atom_types.numel(), "kan_md::convolution: messages of up to ",
                atom_types.numel(), " atoms, got ", num_rows);
    const int64_t count = num_computed(num_centres, num_rows);
    // Also where all atoms of this layer are computed: the list goes on to those of earlier layers.
    if (num_centres)
      edge_index = edge_index.narrow(1, 0, edges_of_first(edge_index, count)).contiguous();
  }
};

template <typename T, typename R>
at::Tensor forward(const Arguments &arg, const ConvolutionPlan &plan)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t num_atoms = arg.atom_types.numel(), num_edges = arg.edge_index.size(1);
  const int64_t num_pairs = arg.table.size(0);
  const int64_t num_types = checked_num_types(arg.atom_types, num_pairs);
  const int num_threads = at::get_num_threads();
  const CentreRanges ranges(arg.edge_index, num_atoms, num_threads, arg.num_rows);
  EdgeTerms<T> edges(num_edges, plan.l_max, false);
  Scratch<T> packed(plan.packed_rows * num_atoms * kBlock);
  at::Tensor out = at::empty({arg.num_rows * plan.out_dim}, arg.x.options());
  const T *x = arg.x.const_data_ptr<T>();
  const Inputs<T> in{plan,      ranges,      edges, x, packed.get(), arg.table.const_data_ptr<T>(),
                     num_atoms, arg.num_rows};
  int64_t most_neighbours = 0;
  for (int64_t i = 0; i < arg.num_rows; ++i)
    most_neighbours = std::max(most_neighbours, ranges.first[i + 1] - ranges.first[i]);

  const int64_t *index = arg.edge_index.const_data_ptr<int64_t>();
  const R *vectors = arg.edge_vectors.const_data_ptr<R>();
  T *out_data = out.mutable_data_ptr<T>();
  const auto prepare = [&](int thread, int threads) {
    // The runtime may grant fewer threads than there are parts.
    for (int k = thread; k < num_threads; k += threads) {
      const int64_t begin = ranges.part[k], end = ranges.part[k + 1];
      edges.fill(vectors, index, index + num_edges, arg.atom_types.const_data_ptr<int64_t>(),
                 arg.cutoffs.const_data_ptr<double>(), num_pairs, num_types, plan.num_knots,
                 plan.with_steps(), ranges.first[begin], ranges.first[end]);
      pack_part(in, num_atoms * k / num_threads, num_atoms * (k + 1) / num_threads, packed.get());
    }
  };
  const auto convolve = [&](int thread, int threads) {
    std::vector<const T *> rows;
    Scratch<T> radial(most_neighbours * kBlock), phi((2 * kMaxL + 1) * (2 * kMaxL + 1) * kBlock);
    for (int k = thread; k < num_threads; k += threads)
      for (const Group &group : plan.groups)
        for (int64_t b = 0; b < group.num_blocks; ++b)
          forward_block<T>(in, group, b, ranges.part[k], ranges.part[k + 1], rows, radial.get(),
                           phi.get(), out_data);
  };
  in_parallel(num_threads, prepare, convolve);
  return out;
}

// Gradients by the features, a copy for each thread: the first one of the groups that are not packed
// is the result.
template <typename T> struct FeatureGradients {
  T *x_grad;    // [num_atoms * in_dim]
  int64_t size, packed_size;
  Scratch<T> copies, packed;    // [threads - 1, size], [threads, packed_size]

  FeatureGradients(T *x_grad_, int64_t size_, int64_t packed_size_, int num_threads) :
      x_grad(x_grad_), size(size_), packed_size(packed_size_), copies(size * (num_threads - 1)),
      packed(packed_size * num_threads)
  {
  }
  T *of(int thread) const { return thread == 0 ? x_grad : copies.get() + (thread - 1) * size; }
  T *packed_of(int thread) const { return packed.get() + thread * packed_size; }
  void clear(int thread) const
  {
    std::fill_n(of(thread), size, T(0));
    std::fill_n(packed_of(thread), packed_size, T(0));
  }
};

// Sum of the threads' gradients of the atoms [begin, end), in the layout of x.
template <typename T>
void add_gradients(const Inputs<T> &in, const FeatureGradients<T> &gradients, int num_threads,
                   int64_t begin, int64_t end)
{
  constexpr int kBlock = Simd<T>::kBlock;
  for (const Group &group : in.plan.groups) {
    const int64_t rows = 2 * group.l1 + 1;
    T *const target = gradients.x_grad + in.num_atoms * group.in_offset;
    for (int thread = 1; !group.is_packed && thread < num_threads; ++thread) {
      const T *const copy = gradients.of(thread) + in.num_atoms * group.in_offset;
      for (int64_t k = begin * rows * group.channels; k < end * rows * group.channels; ++k)
        target[k] += copy[k];
    }
    for (int64_t b = 0; group.is_packed && b < group.num_blocks; ++b) {
      const int64_t width = std::min<int64_t>(kBlock, group.channels - b * kBlock);
      const T *const source = in.rows(group, b, gradients.packed_of(0), gradients.packed_of(0));
      for (int64_t row = begin * rows; row < end * rows; ++row)
        for (int64_t k = 0; k < width; ++k) {
          T total = source[row * kBlock + k];
          for (int thread = 1; thread < num_threads; ++thread)
            total += source[thread * gradients.packed_size + row * kBlock + k];
          target[row * group.channels + b * kBlock + k] = total;
        }
    }
  }
}

template <typename T, typename R>
std::tuple<at::Tensor, at::Tensor> reverse(const at::Tensor &out_grad, const Arguments &arg,
                                           const ConvolutionPlan &plan)
{
  constexpr int kBlock = Simd<T>::kBlock;
  const int64_t num_atoms = arg.atom_types.numel(), num_edges = arg.edge_index.size(1);
  const int64_t num_pairs = arg.table.size(0);
  const int64_t num_types = checked_num_types(arg.atom_types, num_pairs);
  const int num_threads = at::get_num_threads();
  const CentreRanges ranges(arg.edge_index, num_atoms, num_threads, arg.num_rows);
  EdgeTerms<T> edges(num_edges, plan.l_max, true);
  const int64_t packed_size = plan.packed_rows * num_atoms * kBlock;
  Scratch<T> packed(packed_size);
  Scratch<T> harmonics_grad(num_edges * edges.num_harmonics), radial_grad(num_edges);
  at::Tensor vector_grad = at::empty_like(arg.edge_vectors), x_grad = at::empty_like(arg.x);
  vector_grad.narrow(0, num_edges, arg.num_all_edges - num_edges).zero_();
  const T *x = arg.x.const_data_ptr<T>(), *upstream = out_grad.const_data_ptr<T>();
  const Inputs<T> in{plan,      ranges,      edges, x, packed.get(), arg.table.const_data_ptr<T>(),
                     num_atoms, arg.num_rows};
  const FeatureGradients<T> x_grads(x_grad.mutable_data_ptr<T>(), x_grad.numel(), packed_size,
                                    num_threads);

  const int64_t *index = arg.edge_index.const_data_ptr<int64_t>();
  const R *vectors = arg.edge_vectors.const_data_ptr<R>();
  R *vector_grad_data = vector_grad.mutable_data_ptr<R>();
  const auto prepare = [&](int thread, int threads) {
    for (int k = thread; k < num_threads; k += threads) {
      const int64_t begin = ranges.part[k], end = ranges.part[k + 1];
      const int64_t first = ranges.first[begin], last = ranges.first[end];
      edges.fill(vectors, index, index + num_edges, arg.atom_types.const_data_ptr<int64_t>(),
                 arg.cutoffs.const_data_ptr<double>(), num_pairs, num_types, plan.num_knots,
                 plan.with_steps(), first, last);
      pack_part(in, num_atoms * k / num_threads, num_atoms * (k + 1) / num_threads, packed.get());
      x_grads.clear(k);
      std::fill(harmonics_grad.get() + first * edges.num_harmonics,
                harmonics_grad.get() + last * edges.num_harmonics, T(0));
      std::fill(radial_grad.get() + first, radial_grad.get() + last, T(0));
    }
  };
  const auto differentiate = [&](int thread, int threads) {
    std::vector<ReverseKernel<T>> kernels;
    Scratch<T> phi_grad(plan.max_sources * kBlock);
    Scratch<T> harmonics_lanes(edges.num_harmonics * Simd<T>::kLanes);
    for (int k = thread; k < num_threads; k += threads) {
      const int64_t begin = ranges.part[k], end = ranges.part[k + 1];
      for (const Group &group : plan.groups)
        for (int64_t b = 0; b < group.num_blocks; ++b)
          reverse_block<T>(in, group, b, begin, end, kernels, upstream, phi_grad.get(),
                           in.rows(group, b, x_grads.of(k), x_grads.packed_of(k)),
                           harmonics_lanes.get(), harmonics_grad.get(), radial_grad.get());
      gradient_for<T, R>(plan.l_max, vectors, harmonics_grad.get(), radial_grad.get(),
                         ranges.first[begin], ranges.first[end], vector_grad_data);
    }
  };
  const auto add_up = [&](int thread, int threads) {
    for (int k = thread; k < num_threads; k += threads)
      add_gradients<T>(in, x_grads, num_threads, num_atoms * k / num_threads,
                       num_atoms * (k + 1) / num_threads);
  };
  in_parallel(num_threads, prepare, differentiate, add_up);
  return {vector_grad, x_grad};
}

template <typename Result, typename Call>
Result dispatch(at::ScalarType feature_type, at::ScalarType vector_type, const Call &call)
{
  TORCH_CHECK((feature_type == at::kFloat || feature_type == at::kDouble) &&
                  (vector_type == at::kFloat || vector_type == at::kDouble),
              "kan_md::convolution: float32 or float64, got ", feature_type, " and ", vector_type);
  if (feature_type == at::kFloat)
    return vector_type == at::kFloat ? call(float{}, float{}) : call(float{}, double{});
  return vector_type == at::kFloat ? call(double{}, float{}) : call(double{}, double{});
}

// Messages of the first `num_rows` atoms.
at::Tensor convolve(const at::Tensor &edge_vectors, const at::Tensor &x,
                    const at::Tensor &edge_index, const at::Tensor &atom_types,
                    const at::Tensor &table, const at::Tensor &cutoffs, const at::Tensor &couplings,
                    c10::IntArrayRef irreps_in, c10::IntArrayRef paths, int64_t num_knots,
                    const std::optional<at::Tensor> &num_centres, int64_t num_rows)
{
  const ConvolutionPlan plan(irreps_in, paths, couplings, num_knots, kBlockBytes / x.element_size(),
                             table.dim() == 2 ? table.size(1) : 0);
  check(plan, edge_vectors, x, edge_index, atom_types, table, cutoffs);
  const Arguments arg(edge_vectors, x, edge_index, atom_types, table, cutoffs, num_centres,
                      num_rows);
  return dispatch<at::Tensor>(x.scalar_type(), edge_vectors.scalar_type(), [&](auto t, auto r) {
    return forward<decltype(t), decltype(r)>(arg, plan);
  });
}

}    // namespace

at::Tensor convolution(const at::Tensor &edge_vectors, const at::Tensor &x,
                       const at::Tensor &edge_index, const at::Tensor &atom_types,
                       const at::Tensor &table, const at::Tensor &cutoffs,
                       const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                       c10::IntArrayRef paths, int64_t num_knots,
                       const std::optional<at::Tensor> &num_centres)
{
  return convolve(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings, irreps_in,
                  paths, num_knots, num_centres, atom_types.numel());
}

at::Tensor messages_of_first(const at::Tensor &edge_vectors, const at::Tensor &x,
                             const at::Tensor &edge_index, const at::Tensor &atom_types,
                             const at::Tensor &table, const at::Tensor &cutoffs,
                             const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                             c10::IntArrayRef paths, int64_t num_knots,
                             const at::Tensor &num_centres, const at::Tensor &centre_types)
{
  return convolve(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings, irreps_in,
                  paths, num_knots, num_centres, centre_types.numel());
}

std::tuple<at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor &out_grad, const at::Tensor &edge_vectors, const at::Tensor &x,
    const at::Tensor &edge_index, const at::Tensor &atom_types, const at::Tensor &table,
    const at::Tensor &cutoffs, const at::Tensor &couplings, c10::IntArrayRef irreps_in,
    c10::IntArrayRef paths, int64_t num_knots, const std::optional<at::Tensor> &num_centres)
{
  const ConvolutionPlan plan(irreps_in, paths, couplings, num_knots, kBlockBytes / x.element_size(),
                             table.dim() == 2 ? table.size(1) : 0);
  check(plan, edge_vectors, x, edge_index, atom_types, table, cutoffs);
  const int64_t num_rows = plan.out_dim > 0 ? out_grad.numel() / plan.out_dim : 0;
  TORCH_CHECK(out_grad.dim() == 1 && out_grad.numel() == num_rows * plan.out_dim &&
                  num_rows <= atom_types.numel() && out_grad.scalar_type() == x.scalar_type(),
              "kan_md::convolution_backward: out_grad must be [up to ", atom_types.numel(), " * ",
              plan.out_dim, "], got ", out_grad.sizes());
  const Arguments arg(edge_vectors, x, edge_index, atom_types, table, cutoffs, num_centres,
                      num_rows);
  const at::Tensor upstream = out_grad.contiguous();
  return dispatch<std::tuple<at::Tensor, at::Tensor>>(
      x.scalar_type(), edge_vectors.scalar_type(),
      [&](auto t, auto r) { return reverse<decltype(t), decltype(r)>(upstream, arg, plan); });
}

}    // namespace kan_md::ops
