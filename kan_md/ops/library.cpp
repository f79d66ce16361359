// Registration with torch: schemas, shapes, and the reverse passes as autograd functions. The kernels
// themselves are in libraries of their own, one per level of processors, see choose_kernels.cpp.
//
// The reverse of each operator is an operator itself, so that a tracer (AOTInductor) sees it. There
// is no second derivative: deployed files need forces only; training uses the plain torch modules.
// The operators function_*, environment_*, message_*, contraction*, expansion*, silu_* and
// allegro_training* are for training; their reverse passes are in Python.

#include "convolution_plan.h"
#include "ops.h"
#include "piecewise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <numeric>

namespace kan_md::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename Signature> auto operator_handle(const char *name)
{
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// A tensor that may be missing, after it was saved for the reverse.
std::optional<at::Tensor> as_optional(const at::Tensor &saved)
{
  return saved.defined() ? std::optional(saved) : std::nullopt;
}

class Convolution : public torch::autograd::Function<Convolution> {
 public:
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &edge_vectors,
                            const at::Tensor &x, const at::Tensor &edge_index,
                            const at::Tensor &atom_types, const at::Tensor &table,
                            const at::Tensor &cutoffs, const at::Tensor &couplings,
                            std::vector<int64_t> irreps_in, std::vector<int64_t> paths,
                            int64_t num_knots, const std::optional<at::Tensor> &num_centres,
                            const std::optional<at::Tensor> &centre_types)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto all = operator_handle<decltype(convolution)>("kan_md::convolution");
    static const auto first =
        operator_handle<decltype(messages_of_first)>("kan_md::messages_of_first");
    ctx->save_for_backward({edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings,
                            num_centres.value_or(at::Tensor())});
    ctx->saved_data["irreps_in"] = irreps_in;
    ctx->saved_data["paths"] = paths;
    ctx->saved_data["num_knots"] = num_knots;
    if (centre_types)
      return first.call(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings,
                        irreps_in, paths, num_knots, *num_centres, *centre_types);
    return all.call(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings, irreps_in,
                    paths, num_knots, num_centres);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    static const auto op =
        operator_handle<decltype(convolution_backward)>("kan_md::convolution_backward");
    const variable_list s = ctx->get_saved_variables();
    const auto [vector_grad, x_grad] =
        op.call(grads[0], s[0], s[1], s[2], s[3], s[4], s[5], s[6],
                ctx->saved_data["irreps_in"].toIntVector(), ctx->saved_data["paths"].toIntVector(),
                ctx->saved_data["num_knots"].toInt(), as_optional(s[7]));
    variable_list result(12);
    result[0] = vector_grad;
    result[1] = x_grad;
    return result;
  }
};

class Polynomial : public torch::autograd::Function<Polynomial> {
 public:
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &a, const at::Tensor &atom_types,
                            const at::Tensor &coefficients, const at::Tensor &program,
                            std::vector<int64_t> components, std::vector<int64_t> outputs,
                            const std::optional<at::Tensor> &num_centres)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = operator_handle<decltype(polynomial)>("kan_md::polynomial");
    ctx->save_for_backward(
        {a, atom_types, coefficients, program, num_centres.value_or(at::Tensor())});
    ctx->saved_data["components"] = components;
    ctx->saved_data["outputs"] = outputs;
    return op.call(a, atom_types, coefficients, program, components, outputs, num_centres);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    static const auto op =
        operator_handle<decltype(polynomial_backward)>("kan_md::polynomial_backward");
    const variable_list s = ctx->get_saved_variables();
    variable_list result(7);
    result[0] =
        op.call(grads[0], s[0], s[1], s[2], s[3], ctx->saved_data["components"].toIntVector(),
                ctx->saved_data["outputs"].toIntVector(), as_optional(s[4]));
    return result;
  }
};

class PiecewiseSum : public torch::autograd::Function<PiecewiseSum> {
 public:
  static variable_list forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &pieces,
                               const at::Tensor &inverse_step, int64_t origin)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = operator_handle<decltype(piecewise_sum)>("kan_md::piecewise_sum");
    const auto [y, slope] = op.call(x, pieces, inverse_step, origin, true);
    ctx->save_for_backward({slope});
    ctx->mark_non_differentiable({slope});
    return {y, slope};
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    variable_list result(4);
    result[0] = grads[0] * ctx->get_saved_variables()[0];
    return result;
  }
};

class PiecewiseValues : public torch::autograd::Function<PiecewiseValues> {
 public:
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &pieces,
                            const at::Tensor &inverse_step, int64_t origin)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = operator_handle<decltype(piecewise_values)>("kan_md::piecewise_values");
    ctx->save_for_backward({x, pieces, inverse_step});
    ctx->saved_data["origin"] = origin;
    return op.call(x, pieces, inverse_step, origin);
  }

  // One output at a time: this is for completeness.
  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    static const auto op = operator_handle<decltype(piecewise_sum)>("kan_md::piecewise_sum");
    const variable_list s = ctx->get_saved_variables();
    variable_list result(4);
    result[0] = at::zeros_like(s[0]);
    for (int64_t output = 0; output < s[1].size(3); ++output) {
      const at::Tensor pieces =
          at::constant_pad_nd(s[1].select(3, output), {0, kPieceRow - kPiecePowers});
      const at::Tensor slope =
          std::get<1>(op.call(s[0], pieces, s[2], ctx->saved_data["origin"].toInt(), true));
      result[0] += grads[0].narrow(1, output, 1) * slope;
    }
    return result;
  }
};

// Operators whose edges belong to the energy of their centre alone, such as kan_md::allegro.
using OfCentres = decltype(allegro);

class EnergiesOfCentres : public torch::autograd::Function<EnergiesOfCentres> {
 public:
  static variable_list forward(AutogradContext *ctx, const c10::TypedOperatorHandle<OfCentres> &op,
                               const at::Tensor &edge_vectors, const at::Tensor &edge_index,
                               const at::Tensor &atom_types, at::TensorList weights,
                               std::vector<int64_t> shape)
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto [energies, gradient] = op.call(edge_vectors, edge_index, atom_types, weights, shape);
    ctx->save_for_backward({gradient, edge_index});
    ctx->saved_data["num_weights"] = static_cast<int64_t>(weights.size());
    ctx->mark_non_differentiable({gradient});
    return {energies, gradient};
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads)
  {
    const variable_list s = ctx->get_saved_variables();
    variable_list result(5 + ctx->saved_data["num_weights"].toInt());
    result[1] = s[0] * grads[0].index_select(0, s[1].select(0, 0)).unsqueeze(1);
    return result;
  }
};

at::Tensor convolution_autograd(const at::Tensor &edge_vectors, const at::Tensor &x,
                                const at::Tensor &edge_index, const at::Tensor &atom_types,
                                const at::Tensor &table, const at::Tensor &cutoffs,
                                const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                                c10::IntArrayRef paths, int64_t num_knots,
                                const std::optional<at::Tensor> &num_centres)
{
  return Convolution::apply(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings,
                            irreps_in.vec(), paths.vec(), num_knots, num_centres, std::nullopt);
}

at::Tensor messages_of_first_autograd(const at::Tensor &edge_vectors, const at::Tensor &x,
                                      const at::Tensor &edge_index, const at::Tensor &atom_types,
                                      const at::Tensor &table, const at::Tensor &cutoffs,
                                      const at::Tensor &couplings, c10::IntArrayRef irreps_in,
                                      c10::IntArrayRef paths, int64_t num_knots,
                                      const at::Tensor &num_centres, const at::Tensor &centre_types)
{
  return Convolution::apply(edge_vectors, x, edge_index, atom_types, table, cutoffs, couplings,
                            irreps_in.vec(), paths.vec(), num_knots, std::optional(num_centres),
                            std::optional(centre_types));
}

at::Tensor polynomial_autograd(const at::Tensor &a, const at::Tensor &atom_types,
                               const at::Tensor &coefficients, const at::Tensor &program,
                               c10::IntArrayRef components, c10::IntArrayRef outputs,
                               const std::optional<at::Tensor> &num_centres)
{
  return Polynomial::apply(a, atom_types, coefficients, program, components.vec(), outputs.vec(),
                           num_centres);
}

std::tuple<at::Tensor, at::Tensor> piecewise_sum_autograd(const at::Tensor &x,
                                                          const at::Tensor &pieces,
                                                          const at::Tensor &inverse_step,
                                                          int64_t origin, bool slopes)
{
  if (!slopes && !x.requires_grad()) {
    at::AutoDispatchBelowADInplaceOrView guard;
    static const auto op = operator_handle<decltype(piecewise_sum)>("kan_md::piecewise_sum");
    return op.call(x, pieces, inverse_step, origin, false);
  }
  const variable_list out = PiecewiseSum::apply(x, pieces, inverse_step, origin);
  return {out[0], out[1]};
}

at::Tensor piecewise_values_autograd(const at::Tensor &x, const at::Tensor &pieces,
                                     const at::Tensor &inverse_step, int64_t origin)
{
  return PiecewiseValues::apply(x, pieces, inverse_step, origin);
}

std::tuple<at::Tensor, at::Tensor> allegro_autograd(const at::Tensor &edge_vectors,
                                                    const at::Tensor &edge_index,
                                                    const at::Tensor &atom_types,
                                                    at::TensorList weights, c10::IntArrayRef shape)
{
  static const auto op = operator_handle<OfCentres>("kan_md::allegro");
  const variable_list out =
      EnergiesOfCentres::apply(op, edge_vectors, edge_index, atom_types, weights, shape.vec());
  return {out[0], out[1]};
}

std::tuple<at::Tensor, at::Tensor>
local_mace_autograd(const at::Tensor &edge_vectors, const at::Tensor &edge_index,
                    const at::Tensor &atom_types, at::TensorList weights, c10::IntArrayRef shape)
{
  static const auto op = operator_handle<OfCentres>("kan_md::local_mace");
  const variable_list out =
      EnergiesOfCentres::apply(op, edge_vectors, edge_index, atom_types, weights, shape.vec());
  return {out[0], out[1]};
}

// Shapes alone, for tracers.

at::Tensor like(const at::Tensor &tensor)
{
  return at::empty_symint(tensor.sym_sizes(), tensor.options());
}

at::Tensor convolution_meta(const at::Tensor &, const at::Tensor &x, const at::Tensor &,
                            const at::Tensor &atom_types, const at::Tensor &, const at::Tensor &,
                            const at::Tensor &, c10::IntArrayRef irreps_in, c10::IntArrayRef paths,
                            int64_t, const std::optional<at::Tensor> &)
{
  return at::empty_symint({atom_types.sym_numel() * out_dim_of(irreps_in, paths)}, x.options());
}

at::Tensor messages_of_first_meta(const at::Tensor &, const at::Tensor &x, const at::Tensor &,
                                  const at::Tensor &, const at::Tensor &, const at::Tensor &,
                                  const at::Tensor &, c10::IntArrayRef irreps_in,
                                  c10::IntArrayRef paths, int64_t, const at::Tensor &,
                                  const at::Tensor &centre_types)
{
  return at::empty_symint({centre_types.sym_numel() * out_dim_of(irreps_in, paths)}, x.options());
}

std::tuple<at::Tensor, at::Tensor>
convolution_backward_meta(const at::Tensor &, const at::Tensor &edge_vectors, const at::Tensor &x,
                          const at::Tensor &, const at::Tensor &, const at::Tensor &,
                          const at::Tensor &, const at::Tensor &, c10::IntArrayRef,
                          c10::IntArrayRef, int64_t, const std::optional<at::Tensor> &)
{
  return {like(edge_vectors), like(x)};
}

at::Tensor polynomial_meta(const at::Tensor &a, const at::Tensor &atom_types, const at::Tensor &,
                           const at::Tensor &, c10::IntArrayRef, c10::IntArrayRef outputs,
                           const std::optional<at::Tensor> &)
{
  const int64_t num_outputs = std::accumulate(outputs.begin(), outputs.end(), int64_t{0});
  return at::empty_symint({atom_types.sym_numel() * num_outputs, a.sym_size(1)}, a.options());
}

at::Tensor polynomial_backward_meta(const at::Tensor &, const at::Tensor &a, const at::Tensor &,
                                    const at::Tensor &, const at::Tensor &, c10::IntArrayRef,
                                    c10::IntArrayRef, const std::optional<at::Tensor> &)
{
  return like(a);
}

std::tuple<at::Tensor, at::Tensor> piecewise_sum_meta(const at::Tensor &x, const at::Tensor &,
                                                      const at::Tensor &, int64_t, bool slopes)
{
  const at::Tensor y = at::empty_symint({x.sym_size(0), 1}, x.options());
  return {y, slopes ? like(x) : at::empty_symint({0, x.sym_size(1)}, x.options())};
}

std::tuple<at::Tensor, at::Tensor> energies_of_centres_meta(const at::Tensor &edge_vectors,
                                                            const at::Tensor &,
                                                            const at::Tensor &atom_types,
                                                            at::TensorList, c10::IntArrayRef)
{
  return {at::empty_symint({atom_types.sym_numel()}, edge_vectors.options()),
          at::empty_symint({edge_vectors.sym_size(0), 3}, edge_vectors.options())};
}

}    // namespace
}    // namespace kan_md::ops

TORCH_LIBRARY(kan_md, m)
{
  m.def("convolution(Tensor edge_vectors, Tensor x, Tensor edge_index, Tensor atom_types, "
        "Tensor table, Tensor cutoffs, Tensor couplings, int[] irreps_in, int[] paths, "
        "int num_knots, Tensor? num_centres=None) -> Tensor");
  m.def("messages_of_first(Tensor edge_vectors, Tensor x, Tensor edge_index, Tensor atom_types, "
        "Tensor table, Tensor cutoffs, Tensor couplings, int[] irreps_in, int[] paths, "
        "int num_knots, Tensor num_centres, Tensor centre_types) -> Tensor");
  m.def("convolution_backward(Tensor out_grad, Tensor edge_vectors, Tensor x, Tensor edge_index, "
        "Tensor atom_types, Tensor table, Tensor cutoffs, Tensor couplings, int[] irreps_in, "
        "int[] paths, int num_knots, Tensor? num_centres=None) -> (Tensor, Tensor)");
  m.def("polynomial(Tensor a, Tensor atom_types, Tensor coefficients, Tensor program, "
        "int[] components, int[] outputs, Tensor? num_centres=None) -> Tensor");
  m.def("polynomial_backward(Tensor out_grad, Tensor a, Tensor atom_types, Tensor coefficients, "
        "Tensor program, int[] components, int[] outputs, Tensor? num_centres=None) -> Tensor");
  m.def("piecewise_sum(Tensor x, Tensor pieces, Tensor inverse_step, int origin, "
        "bool slopes=True) -> (Tensor, Tensor)");
  m.def("piecewise_values(Tensor x, Tensor pieces, Tensor inverse_step, int origin) -> Tensor");
  m.def("allegro(Tensor edge_vectors, Tensor edge_index, Tensor atom_types, Tensor[] weights, "
        "int[] shape) -> (Tensor, Tensor)");
  m.def("local_mace(Tensor edge_vectors, Tensor edge_index, Tensor atom_types, Tensor[] weights, "
        "int[] shape) -> (Tensor, Tensor)");
  m.def("function_sums(Tensor x, Tensor scale, Tensor w, Tensor rest, Tensor grid, str basis, "
        "int steps, int order, bool shifted) -> Tensor");
  m.def("function_values(Tensor x, Tensor scale, Tensor g, Tensor w, Tensor rest, Tensor grid, "
        "str basis, int steps, int order, bool shifted) -> Tensor");
  m.def("function_gradients(Tensor x, Tensor scale, Tensor g, Tensor w, Tensor rest, Tensor grid, "
        "str basis, int steps, int order, bool shifted) -> (Tensor, Tensor)");
  m.def("function_moments(Tensor x, Tensor scale, Tensor g, Tensor grid, str basis, int steps, "
        "int order, bool shifted, int num_rows, int num_powers, int num_rest) -> (Tensor, Tensor)");
  m.def("edge_functions(Tensor vectors, Tensor? tangents, Tensor pair, Tensor inverse_cutoffs, "
        "Tensor matrices, int l_max, int num_bessels, int power, ScalarType dtype) "
        "-> (Tensor, Tensor)");
  m.def("edge_functions_backward(Tensor radial_grad, Tensor harmonics_grad, Tensor vectors, "
        "Tensor? tangents, Tensor pair, Tensor inverse_cutoffs, Tensor matrices, int l_max, "
        "int num_bessels, int power) -> Tensor");
  m.def("allegro_training(Tensor radial, Tensor harmonics, Tensor weights, Tensor order, "
        "Tensor first, Tensor pair, Tensor norm, Tensor program, int[] shape) "
        "-> (Tensor, Tensor, Tensor)");
  m.def("allegro_training_backward(Tensor energy_grad, Tensor radial_tangent, "
        "Tensor harmonics_tangent, Tensor radial, Tensor harmonics, Tensor weights, Tensor order, "
        "Tensor first, Tensor pair, Tensor norm, Tensor program, int[] shape) "
        "-> (Tensor, Tensor, Tensor)");
  m.def("environment_sum(Tensor weights, Tensor harmonics, Tensor order, Tensor first, "
        "Tensor degree, int degrees) -> Tensor");
  m.def("environment_projection(Tensor harmonics, Tensor field, Tensor order, Tensor first, "
        "Tensor degree, int degrees) -> Tensor");
  m.def("message_sums(Tensor weights, Tensor matrices, Tensor features, Tensor? along_weights, "
        "Tensor? along_matrices, Tensor? along_features, Tensor other, Tensor order, Tensor first, "
        "Tensor paths, int width, bool transposed) -> Tensor");
  m.def("message_gradients(Tensor weights, Tensor matrices, Tensor features, Tensor field, "
        "Tensor? along_weights, Tensor? along_matrices, Tensor? along_features, Tensor source, "
        "Tensor target, Tensor paths) -> (Tensor, Tensor)");
  m.def("contraction(Tensor features, Tensor coefficients, Tensor first, Tensor program, "
        "int outputs) -> Tensor");
  m.def("contraction_gradients(Tensor field, Tensor features, Tensor coefficients, Tensor first, "
        "Tensor program) -> (Tensor, Tensor)");
  m.def("contraction_along(Tensor along, Tensor field, Tensor features, Tensor coefficients, "
        "Tensor first, Tensor program) -> (Tensor, Tensor, Tensor)");
  m.def("expansion(Tensor vectors, Tensor? along, Tensor jets, Tensor order, Tensor first, "
        "Tensor of_edge, int num_types, int l_max) -> Tensor");
  m.def("expansion_gradient(Tensor field, Tensor vectors, Tensor jets, Tensor order, "
        "Tensor first, Tensor of_edge, int num_types, int l_max) -> Tensor");
  m.def("expansion_jets(Tensor of_loss, Tensor? field, Tensor vectors, Tensor? along, "
        "Tensor order, Tensor first, Tensor of_edge, int num_types, int l_max) -> Tensor");
  m.def("silu_jets(Tensor z) -> Tensor");
  m.def("silu_jets_backward(Tensor grad, Tensor z) -> Tensor");
  m.def("silu_along(Tensor along, Tensor grad, Tensor z) -> (Tensor, Tensor)");
  m.def("environment_harmonics(Tensor weights, Tensor field, Tensor order, Tensor first, "
        "Tensor degree, int degrees) -> Tensor");
}

TORCH_LIBRARY_IMPL(kan_md, Autograd, m)
{
  m.impl("convolution", kan_md::ops::convolution_autograd);
  m.impl("messages_of_first", kan_md::ops::messages_of_first_autograd);
  m.impl("polynomial", kan_md::ops::polynomial_autograd);
  m.impl("piecewise_sum", kan_md::ops::piecewise_sum_autograd);
  m.impl("piecewise_values", kan_md::ops::piecewise_values_autograd);
  m.impl("allegro", kan_md::ops::allegro_autograd);
  m.impl("local_mace", kan_md::ops::local_mace_autograd);
}

TORCH_LIBRARY_IMPL(kan_md, Meta, m)
{
  m.impl("convolution", kan_md::ops::convolution_meta);
  m.impl("messages_of_first", kan_md::ops::messages_of_first_meta);
  m.impl("convolution_backward", kan_md::ops::convolution_backward_meta);
  m.impl("polynomial", kan_md::ops::polynomial_meta);
  m.impl("polynomial_backward", kan_md::ops::polynomial_backward_meta);
  m.impl("piecewise_sum", kan_md::ops::piecewise_sum_meta);
  m.impl("allegro", kan_md::ops::energies_of_centres_meta);
  m.impl("local_mace", kan_md::ops::energies_of_centres_meta);
}
