// The fixed part of one message-passing convolution: channels, paths, Clebsch-Gordan entries.

#ifndef KAN_MD_OPS_CONVOLUTION_PLAN_H
#define KAN_MD_OPS_CONVOLUTION_PLAN_H

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <vector>

namespace kan_md::ops {

struct Coupling {
  int source;    // m1 * (2 l2 + 1) + m2
  int target;    // m3
  double value;
};

struct Path {
  int l1, l2, l3;
  int64_t output;         // number of the output irreps
  int64_t out_channel;    // first channel of this path among those of its output irreps
  int source_offset;      // first row of this path among the uncontracted rows of its group
  std::vector<Coupling> couplings;
};

// Paths that read the same input irreps: one loop over channel blocks serves them all.
struct Group {
  int l1;
  int64_t channels;
  int64_t num_blocks;
  int64_t in_offset;        // numbers per atom before the irreps in the input
  bool is_packed;           // channels do not fill blocks: kernels read a copy where they do
  int64_t packed_offset;    // first block row of the irreps in packed input, in units of blocks
  int64_t table_offset;     // first element of the group in one pair's table
  int num_sources;          // uncontracted rows, sum of (2 l1 + 1)(2 l2 + 1)
  int num_targets;          // contracted rows, sum of (2 l3 + 1)
  std::vector<Path> paths;
};

struct ConvolutionPlan {
  std::vector<Group> groups;
  int l_max = 0;    // of the spherical harmonics
  int max_sources = 0, max_targets = 0, max_paths = 0, max_rows = 0;
  int64_t in_dim = 0, out_dim = 0;                   // numbers per atom
  std::vector<int64_t> out_channels, out_offsets;    // of each output irreps
  int64_t packed_rows = 0;                           // block rows of one atom's packed irreps
  int64_t table_size = 0;                            // elements of one pair's table
  int64_t num_knots = 0;
  int knot_values = 0;    // numbers per knot, with or without steps, see piecewise.h

  // irreps_in: (channels, l) per input irreps; paths: (input, l2, l3, output) per path, sorted by
  // input; couplings: [n, 5] float64 rows (path, m1, m2, m3, value); given_size: elements of one
  // pair's table as it is given, which tells whether it has steps.
  ConvolutionPlan(c10::IntArrayRef irreps_in, c10::IntArrayRef paths, const at::Tensor &couplings,
                  int64_t num_knots, int64_t block, int64_t given_size);
  bool with_steps() const;
};

// Numbers per atom that a convolution of these paths gives.
inline int64_t out_dim_of(c10::IntArrayRef irreps_in, c10::IntArrayRef paths)
{
  int64_t dim = 0;
  for (size_t p = 0; p + 3 < paths.size(); p += 4)
    dim += irreps_in.at(2 * paths[p]) * (2 * paths[p + 2] + 1);
  return dim;
}

}    // namespace kan_md::ops

#endif
