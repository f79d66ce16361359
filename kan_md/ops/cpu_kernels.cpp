// Registers the kernels of one level of processors; library.cpp has the operators' schemas.

#include "ops.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(kan_md, CPU, m)
{
  m.impl("convolution", kan_md::ops::convolution);
  m.impl("messages_of_first", kan_md::ops::messages_of_first);
  m.impl("convolution_backward", kan_md::ops::convolution_backward);
  m.impl("polynomial", kan_md::ops::polynomial);
  m.impl("polynomial_backward", kan_md::ops::polynomial_backward);
  m.impl("piecewise_sum", kan_md::ops::piecewise_sum);
  m.impl("piecewise_values", kan_md::ops::piecewise_values);
  m.impl("allegro", kan_md::ops::allegro);
  m.impl("local_mace", kan_md::ops::local_mace);
  m.impl("function_sums", kan_md::ops::function_sums);
  m.impl("function_values", kan_md::ops::function_values);
  m.impl("function_gradients", kan_md::ops::function_gradients);
  m.impl("function_moments", kan_md::ops::function_moments);
  m.impl("edge_functions", kan_md::ops::edge_functions);
  m.impl("edge_functions_backward", kan_md::ops::edge_functions_backward);
  m.impl("allegro_training", kan_md::ops::allegro_training);
  m.impl("allegro_training_backward", kan_md::ops::allegro_training_backward);
  m.impl("environment_sum", kan_md::ops::environment_sum);
  m.impl("environment_projection", kan_md::ops::environment_projection);
  m.impl("message_sums", kan_md::ops::message_sums);
  m.impl("message_gradients", kan_md::ops::message_gradients);
  m.impl("contraction", kan_md::ops::contraction);
  m.impl("contraction_gradients", kan_md::ops::contraction_gradients);
  m.impl("contraction_along", kan_md::ops::contraction_along);
  m.impl("expansion", kan_md::ops::expansion);
  m.impl("expansion_gradient", kan_md::ops::expansion_gradient);
  m.impl("expansion_jets", kan_md::ops::expansion_jets);
  m.impl("silu_jets", kan_md::ops::silu_jets);
  m.impl("silu_jets_backward", kan_md::ops::silu_jets_backward);
  m.impl("silu_along", kan_md::ops::silu_along);
  m.impl("environment_harmonics", kan_md::ops::environment_harmonics);
}
