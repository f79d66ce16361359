#include "convolution_plan.h"

#include "piecewise.h"
#include "simd.h"
#include "spherical_harmonics.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace kan_md::ops {

ConvolutionPlan::ConvolutionPlan(c10::IntArrayRef irreps_in, c10::IntArrayRef paths,
                                 const at::Tensor &couplings, int64_t num_knots_, int64_t block,
                                 int64_t given_size) : num_knots(num_knots_)
{
  TORCH_CHECK(irreps_in.size() % 2 == 0 && paths.size() % 4 == 0,
              "kan_md::convolution: irreps_in holds pairs and paths quadruples, got ",
              irreps_in.size(), " and ", paths.size(), " numbers");
  TORCH_CHECK(couplings.scalar_type() == at::kDouble && couplings.dim() == 2 &&
                  couplings.size(1) == 5,
              "kan_md::convolution: couplings must be float64 [n, 5]");
  TORCH_CHECK(num_knots >= 2, "kan_md::convolution: a table needs two knots, got ", num_knots);

  const int64_t num_inputs = static_cast<int64_t>(irreps_in.size() / 2);
  const int64_t num_paths = static_cast<int64_t>(paths.size() / 4);
  std::vector<int64_t> offsets(num_inputs);
  for (int64_t i = 0; i < num_inputs; ++i) {
    offsets[i] = in_dim;
    in_dim += irreps_in[2 * i] * (2 * irreps_in[2 * i + 1] + 1);
  }

  std::vector<int64_t> out_degree;
  for (int64_t p = 0; p < num_paths; ++p) {
    const int64_t input = paths[4 * p], l3 = paths[4 * p + 2], output = paths[4 * p + 3];
    TORCH_CHECK(input >= 0 && input < num_inputs && output >= 0 && output < num_paths,
                "kan_md::convolution: path ", p, " from input ", input, " to output ", output);
    if (output >= static_cast<int64_t>(out_degree.size())) {
      out_degree.resize(output + 1, -1);
      out_channels.resize(output + 1, 0);
    }
    TORCH_CHECK(out_degree[output] == -1 || out_degree[output] == l3,
                "kan_md::convolution: output ", output, " has two degrees");
    out_degree[output] = l3;
    out_channels[output] += irreps_in[2 * input];
  }
  for (size_t k = 0; k < out_degree.size(); ++k) {
    out_offsets.push_back(out_dim);
    out_dim += out_channels[k] * (2 * std::max<int64_t>(out_degree[k], 0) + 1);
  }
  TORCH_INTERNAL_ASSERT(out_dim == out_dim_of(irreps_in, paths));
  std::vector<int64_t> filled(out_degree.size(), 0);

  std::vector<Path *> by_number;
  int64_t previous = -1;
  for (int64_t p = 0; p < num_paths; ++p) {
    const int64_t input = paths[4 * p];
    TORCH_CHECK(input >= previous && input < num_inputs,
                "kan_md::convolution: paths must be sorted by input irreps");
    const int l1 = static_cast<int>(irreps_in[2 * input + 1]);
    const int l2 = static_cast<int>(paths[4 * p + 1]), l3 = static_cast<int>(paths[4 * p + 2]);
    TORCH_CHECK(l1 <= kMaxL && l2 <= kMaxL && l3 <= 2 * kMaxL, "kan_md::convolution: l up to ",
                kMaxL, " is compiled in, got ", l1, " and ", l2);
    if (input != previous) {
      Group group{};
      group.l1 = l1;
      group.channels = irreps_in[2 * input];
      group.num_blocks = blocks(group.channels, block);
      group.is_packed = group.channels % block != 0;
      group.in_offset = offsets[input];
      groups.push_back(std::move(group));
      previous = input;
    }
    Group &group = groups.back();
    const int64_t output = paths[4 * p + 3];
    Path path{l1, l2, l3, output, filled[output], group.num_sources, {}};
    filled[output] += group.channels;
    group.num_sources += (2 * l1 + 1) * (2 * l2 + 1);
    group.num_targets += 2 * l3 + 1;
    group.paths.push_back(std::move(path));
    l_max = std::max(l_max, l2);
  }

  int64_t numbers_of_one = 0;    // of one value per knot
  for (const Group &group : groups)
    numbers_of_one +=
        group.num_blocks * num_knots * static_cast<int64_t>(group.paths.size()) * block;
  knot_values = given_size == kKnotValuesWithoutSteps * numbers_of_one ? kKnotValuesWithoutSteps
                                                                       : kKnotValues;

  for (Group &group : groups) {
    group.packed_offset = packed_rows;
    group.table_offset = table_size;
    if (group.is_packed) packed_rows += group.num_blocks * (2 * group.l1 + 1);
    table_size += group.num_blocks * num_knots * static_cast<int64_t>(group.paths.size()) *
                  knot_values * block;
    max_sources = std::max(max_sources, group.num_sources);
    max_targets = std::max(max_targets, group.num_targets);
    max_paths = std::max(max_paths, static_cast<int>(group.paths.size()));
    max_rows = std::max(max_rows, 2 * group.l1 + 1);
    for (Path &path : group.paths) by_number.push_back(&path);
  }

  const double *row = couplings.const_data_ptr<double>();
  for (int64_t n = 0; n < couplings.size(0); ++n, row += 5) {
    const int64_t number = static_cast<int64_t>(row[0]);
    TORCH_CHECK(number >= 0 && number < num_paths, "kan_md::convolution: coupling of path ", number,
                ", there are ", num_paths);
    Path &path = *by_number[number];
    const int m1 = static_cast<int>(row[1]), m2 = static_cast<int>(row[2]);
    const int m3 = static_cast<int>(row[3]);
    TORCH_CHECK(m1 >= 0 && m1 <= 2 * path.l1 && m2 >= 0 && m2 <= 2 * path.l2 && m3 >= 0 &&
                    m3 <= 2 * path.l3,
                "kan_md::convolution: coupling ", n, " is outside its irreps");
    path.couplings.push_back({m1 * (2 * path.l2 + 1) + m2, m3, row[4]});
  }
}

bool ConvolutionPlan::with_steps() const
{
  return knot_values == kKnotValues;
}

}    // namespace kan_md::ops
