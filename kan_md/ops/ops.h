// Operators of libkan_md_ops, as plain C++ functions; library.cpp registers them with torch.

#ifndef KAN_MD_OPS_OPS_H
#define KAN_MD_OPS_OPS_H

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/string_view.h>

#include <optional>
#include <tuple>

namespace kan_md::ops {

// Message passing of one layer, summed per centre and Clebsch-Gordan contracted there.
//
//   edge_vectors [num_edges, 3] Å, float32 or float64; edge_index [2, num_edges], sorted by centre
//   x            1-d, for each input irreps a block [num_atoms, 2l+1, channels]
//   table        [num_pairs, table_size], quintic Hermite knots, see layout.py
//   cutoffs      [num_pairs] float64 Å
//   couplings    [n, 5] float64 (path, m1, m2, m3, value)
//   irreps_in    (channels, l) per input; paths (input, l2, l3, output) per path, sorted by input
//   num_centres  [1] int64: results of atoms after the first ones are zero; without it none are
// Returns 1-d, for each output irreps a block [num_atoms, 2 l3 + 1, channels of its paths].
at::Tensor convolution(const at::Tensor &edge_vectors, const at::Tensor &x,
                       const at::Tensor &edge_index, const at::Tensor &atom_types,
                       const at::Tensor &table, const at::Tensor &cutoffs,
                       const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                       c10::IntArrayRef paths, int64_t num_knots,
                       const std::optional<at::Tensor> &num_centres);

// The same with messages of the first atoms alone, as many as there are entries of centre_types:
// for each output irreps a block [num_rows, 2 l3 + 1, channels of its paths]. Edges of the others are
// left out.
at::Tensor messages_of_first(const at::Tensor &edge_vectors, const at::Tensor &x,
                             const at::Tensor &edge_index, const at::Tensor &atom_types,
                             const at::Tensor &table, const at::Tensor &cutoffs,
                             const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                             c10::IntArrayRef paths, int64_t num_knots,
                             const at::Tensor &num_centres, const at::Tensor &centre_types);

// (dE/d edge_vectors, dE/dx) of both, by out_grad of all or of the first atoms' messages.
std::tuple<at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor &out_grad, const at::Tensor &edge_vectors, const at::Tensor &x,
    const at::Tensor &edge_index, const at::Tensor &atom_types, const at::Tensor &table,
    const at::Tensor &cutoffs, const at::Tensor &couplings, c10::IntArrayRef irreps_in,
    c10::IntArrayRef paths, int64_t num_knots, const std::optional<at::Tensor> &num_centres);

// MACE's symmetric contraction as a polynomial of degree <= 3 in the components, per channel.
//
//   a            [num_atoms * num_components, channels], for each entry n of components a block
//                [num_atoms, n, channels]
//   coefficients [num_types, num_blocks, num_terms, block]
//   program      [n] int32, nested monomials, see layout.py
//   num_centres  as above
// Returns [num_atoms * num_outputs, channels], in the blocks that outputs names.
at::Tensor polynomial(const at::Tensor &a, const at::Tensor &atom_types,
                      const at::Tensor &coefficients, const at::Tensor &program,
                      c10::IntArrayRef components, c10::IntArrayRef outputs,
                      const std::optional<at::Tensor> &num_centres);

at::Tensor polynomial_backward(const at::Tensor &out_grad, const at::Tensor &a,
                               const at::Tensor &atom_types, const at::Tensor &coefficients,
                               const at::Tensor &program, c10::IntArrayRef components,
                               c10::IntArrayRef outputs,
                               const std::optional<at::Tensor> &num_centres);

// Sum of univariate functions that are polynomials on cells: y[n] = sum_i phi_i(x[n, i]).
//
//   x            [num_rows, in]
//   pieces       [in, num_pieces, 8], six powers of the place inside the piece and two zeros; the
//                first and the last piece reach to infinity
//   inverse_step [in] one over the width of a piece; origin: the piece that starts at x = 0
// Returns y [num_rows, 1] and the slopes d phi/dx [num_rows, in], or [0, in] where they are not wanted.
std::tuple<at::Tensor, at::Tensor> piecewise_sum(const at::Tensor &x, const at::Tensor &pieces,
                                                 const at::Tensor &inverse_step, int64_t origin,
                                                 bool slopes);

// Such sums for several outputs, y[n, o] = sum_i phi_oi(x[n, i]), without slopes.
//
//   pieces       [in, num_pieces, 6, out], powers as above; out is a multiple of eight
// Returns y [num_rows, out].
at::Tensor piecewise_values(const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin);

// A whole Allegro: energies per atom and the gradient of their sum by the edge vectors.
//
//   edge_vectors [num_edges, 3] Å, float64; edge_index [2, num_edges], sorted by centre
//   weights, shape: see allegro_plan.cpp, and FusedAllegro in deploy/passes/fused_allegro.py
// Returns energies [num_atoms] and dE/d edge_vectors [num_edges, 3], both float64. An edge belongs to
// the energy of its centre alone, so that the gradient of a weighted sum is this one times weights.
std::tuple<at::Tensor, at::Tensor> allegro(const at::Tensor &edge_vectors,
                                           const at::Tensor &edge_index,
                                           const at::Tensor &atom_types, at::TensorList weights,
                                           c10::IntArrayRef shape);

// A whole MACE with one interaction, in the same terms.
//
//   weights, shape: see local_mace_plan.cpp, and kan_md_deploy/passes/fused_local_mace.py
// An atom without edges has an energy too: that of its densities' offsets.
std::tuple<at::Tensor, at::Tensor> local_mace(const at::Tensor &edge_vectors,
                                              const at::Tensor &edge_index,
                                              const at::Tensor &atom_types, at::TensorList weights,
                                              c10::IntArrayRef shape);

// Sums of univariate functions phi_i(scale_i x_i) with small tables, see kan_md/ops/function_sums.py.
//
//   x, scale     [points, inputs], float32 or float64, and [inputs]
//   g            weights of the functions, [points, inputs] or [points, 1]
//   w            [rows, powers, inputs]
//   rest         [2 or 3, inputs]: below the grid, above it, and what multiplies the base function
//   grid         [2, inputs]: place of 0 in steps from the lower end, and the length of a step
// Bits of a result do not depend on the number of threads. The derivatives are made of these same
// operators, in Python.

// sum_i phi_i, [points].
at::Tensor function_sums(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &w,
                         const at::Tensor &rest, const at::Tensor &grid, c10::string_view basis,
                         int64_t steps, int64_t order, bool shifted);

// g phi, [points, inputs].
at::Tensor function_values(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &g,
                           const at::Tensor &w, const at::Tensor &rest, const at::Tensor &grid,
                           c10::string_view basis, int64_t steps, int64_t order, bool shifted);

// g phi scale [points, inputs] and sum_n x g phi [inputs]: the chain rule if phi is a derivative.
std::tuple<at::Tensor, at::Tensor>
function_gradients(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &g,
                   const at::Tensor &w, const at::Tensor &rest, const at::Tensor &grid,
                   c10::string_view basis, int64_t steps, int64_t order, bool shifted);

// Derivatives of sum_ni g phi with respect to w and rest.
std::tuple<at::Tensor, at::Tensor> function_moments(const at::Tensor &x, const at::Tensor &scale,
                                                    const at::Tensor &g, const at::Tensor &grid,
                                                    c10::string_view basis, int64_t steps,
                                                    int64_t order, bool shifted, int64_t num_rows,
                                                    int64_t num_powers, int64_t num_rest);

// Radial functions and harmonics of edges, see edge_functions.cpp; with tangents their slopes.
//
//   vectors      [edges, 3] float64 Å; tangents likewise
//   pair         [edges] of types, for inverse_cutoffs [pairs] float64 1/Å
//   matrices     [n] float64, of kan_md/forms/harmonics.py for l = 1 .. l_max, in a row
//   power        p of the cutoff's polynomial
// Returns [edges, num_bessels] and [edges, (l_max + 1)^2] of the dtype.
std::tuple<at::Tensor, at::Tensor>
edge_functions(const at::Tensor &vectors, const std::optional<at::Tensor> &tangents,
               const at::Tensor &pair, const at::Tensor &inverse_cutoffs,
               const at::Tensor &matrices, int64_t l_max, int64_t num_bessels, int64_t power,
               at::ScalarType dtype);

// Gradient by the vectors, [edges, 3] float64; with tangents its slope.
at::Tensor edge_functions_backward(const at::Tensor &radial_grad, const at::Tensor &harmonics_grad,
                                   const at::Tensor &vectors,
                                   const std::optional<at::Tensor> &tangents,
                                   const at::Tensor &pair, const at::Tensor &inverse_cutoffs,
                                   const at::Tensor &matrices, int64_t l_max, int64_t num_bessels,
                                   int64_t power);

// A whole Allegro while it is trained, see kan_md/forms/allegro_operator.py.
//
//   radial       [edges, n], functions of the lengths that the pair of types weighs
//   harmonics    [edges, (l_max + 1)^2]
//   weights      [m], all in a row; program [k] int32, indices of the tensor products
//   order        [edges], edges sorted by centre and, among those of one, by pair
//   first        [centres + 1], where those of each centre begin in it
//   pair         [edges] in that order, of types
//   norm         [centres], what an environment is multiplied by
// Returns energies [centres] float64, and their sum's gradient by radial and harmonics.
std::tuple<at::Tensor, at::Tensor, at::Tensor>
allegro_training(const at::Tensor &radial, const at::Tensor &harmonics, const at::Tensor &weights,
                 const at::Tensor &order, const at::Tensor &first, const at::Tensor &pair,
                 const at::Tensor &norm, const at::Tensor &program, c10::IntArrayRef shape);

// Gradients by radial, harmonics and weights of sum_c energy_grad[c] E[c] plus the products of the
// tangents with the gradients above. Bits do not depend on the number of threads.
std::tuple<at::Tensor, at::Tensor, at::Tensor>
allegro_training_backward(const at::Tensor &energy_grad, const at::Tensor &radial_tangent,
                          const at::Tensor &harmonics_tangent, const at::Tensor &radial,
                          const at::Tensor &harmonics, const at::Tensor &weights,
                          const at::Tensor &order, const at::Tensor &first, const at::Tensor &pair,
                          const at::Tensor &norm, const at::Tensor &program,
                          c10::IntArrayRef shape);

// Sums over the edges around each centre, see kan_md/forms/environment_sums.py.
//
//   weights      w [edges, degrees * channels], float32 or float64
//   harmonics    Y [edges, components]
//   field        A [centres, components, channels]
//   order        [edges], edges sorted by centre
//   first        [centres + 1], where those of each centre begin in it
//   degree       [components], column block of w
// Bits of a result do not depend on the number of threads.

// sum_e w[e, l(i), u] Y[e, i], [centres, components, channels].
at::Tensor environment_sum(const at::Tensor &weights, const at::Tensor &harmonics,
                           const at::Tensor &order, const at::Tensor &first,
                           const at::Tensor &degree, int64_t degrees);

// sum_{i of l} Y[e, i] A[n(e), i, u], [edges, degrees * channels].
at::Tensor environment_projection(const at::Tensor &harmonics, const at::Tensor &field,
                                  const at::Tensor &order, const at::Tensor &first,
                                  const at::Tensor &degree, int64_t degrees);

// sum_u w[e, l(i), u] A[n(e), i, u], [edges, components].
at::Tensor environment_harmonics(const at::Tensor &weights, const at::Tensor &field,
                                 const at::Tensor &order, const at::Tensor &first,
                                 const at::Tensor &degree, int64_t degrees);

// Equivariant convolutions of features with harmonics, see kan_md/forms/convolutions.py.
//
//   weights      w [pairs, channels of all paths], float32 or float64; edge e has row e, or e - pairs
//   matrices     M [edges, blocks [components at the source, at the target]]
//   features     X [atoms, blocks [components, channels]]; field, likewise, on the targets
//   source       [edges], atom of X; target, of the field
//   paths        [paths, 7]: begin of a path's block in X, in the field and in w, channels, begin of
//                its block in M, components at the source and at the target (1, 3, 5 or 7)
//   along_*      directions, like what they belong to: the results are derivatives along them
// Bits of a result do not depend on the number of threads.

// sum_e w M X on the targets, or of the field on the sources with M transposed, [atoms, width]; the
// edges of each atom are those of order and first, other is where their features are.
at::Tensor message_sums(const at::Tensor &weights, const at::Tensor &matrices,
                        const at::Tensor &features, const std::optional<at::Tensor> &along_weights,
                        const std::optional<at::Tensor> &along_matrices,
                        const std::optional<at::Tensor> &along_features, const at::Tensor &other,
                        const at::Tensor &order, const at::Tensor &first, const at::Tensor &paths,
                        int64_t width, bool transposed);

// Its product with a field, differentiated by w and by M.
std::tuple<at::Tensor, at::Tensor>
message_gradients(const at::Tensor &weights, const at::Tensor &matrices, const at::Tensor &features,
                  const at::Tensor &field, const std::optional<at::Tensor> &along_weights,
                  const std::optional<at::Tensor> &along_matrices,
                  const std::optional<at::Tensor> &along_features, const at::Tensor &source,
                  const at::Tensor &target, const at::Tensor &paths);

// MACE's symmetric contraction of atoms that are sorted by type, for training.
//
//   features      A [atoms, components, channels], float32 or float64
//   coefficients  p [types, terms, channels] of the nest that program describes, see
//                 polynomial_kernels.h; first [types + 1], where the atoms of each type begin
//   field         G [atoms, outputs, channels]
// Bits of a result do not depend on the number of threads.
at::Tensor contraction(const at::Tensor &features, const at::Tensor &coefficients,
                       const at::Tensor &first, const at::Tensor &program, int64_t outputs);

// Gradients of sum G out by A and p.
std::tuple<at::Tensor, at::Tensor> contraction_gradients(const at::Tensor &field,
                                                         const at::Tensor &features,
                                                         const at::Tensor &coefficients,
                                                         const at::Tensor &first,
                                                         const at::Tensor &program);

// Derivatives of the outputs and of both gradients along a direction of A.
std::tuple<at::Tensor, at::Tensor, at::Tensor>
contraction_along(const at::Tensor &along, const at::Tensor &field, const at::Tensor &features,
                  const at::Tensor &coefficients, const at::Tensor &first,
                  const at::Tensor &program);

// The expansion of atomic neighbourhoods, for training; see expansion.cpp.
//
//   vectors   [pairs, 3] float64, from one atom of a pair to the other; along: by how much they change
//   jets      [2, pairs, (l_max + 1) * channels], radial functions by degree and channel, float32 or
//             float64, then their slopes by the length
//   of_edge   [edges], number of the sum (atom * num_types + type of the neighbour) that an edge
//             belongs to; edges are all pairs, or those and then the same turned round
//   order     the edges of each sum, which begin at first [sums + 1]
// Returns [atoms, (l_max + 1)^2, num_types, channels], or its change.
at::Tensor expansion(const at::Tensor &vectors, const std::optional<at::Tensor> &along,
                     const at::Tensor &jets, const at::Tensor &order, const at::Tensor &first,
                     const at::Tensor &of_edge, int64_t num_types, int64_t l_max);

// Gradient by the vectors of its product with a field.
at::Tensor expansion_gradient(const at::Tensor &field, const at::Tensor &vectors,
                              const at::Tensor &jets, const at::Tensor &order,
                              const at::Tensor &first, const at::Tensor &of_edge, int64_t num_types,
                              int64_t l_max);

// Gradient by the jets of: its product with the field of_loss, and that gradient's with `along`.
at::Tensor expansion_jets(const at::Tensor &of_loss, const std::optional<at::Tensor> &field,
                          const at::Tensor &vectors, const std::optional<at::Tensor> &along,
                          const at::Tensor &order, const at::Tensor &first,
                          const at::Tensor &of_edge, int64_t num_types, int64_t l_max);

// SiLU of numbers [2, ...] that come with a derivative: (s(z), s'(z) z'), and gradients by both.
at::Tensor silu_jets(const at::Tensor &z);
at::Tensor silu_jets_backward(const at::Tensor &grad, const at::Tensor &z);

// What `along` times g s'(z) is by g and by z.
std::tuple<at::Tensor, at::Tensor> silu_along(const at::Tensor &along, const at::Tensor &grad,
                                              const at::Tensor &z);

}    // namespace kan_md::ops

#endif
