#include "neighbours.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

namespace kan_md::ops {

CentreRanges::CentreRanges(const at::Tensor &edge_index, int64_t num_atoms, int num_threads,
                           int64_t num_centres) :
    first(num_centres + 1, 0), part(num_threads + 1, num_centres)
{
  const int64_t num_edges = edge_index.size(1);
  const int64_t *centre = edge_index.const_data_ptr<int64_t>();
  const int64_t *neighbour = centre + num_edges;
  int64_t previous = 0;
  for (int64_t e = 0; e < num_edges; ++e) {
    TORCH_CHECK(centre[e] >= previous && centre[e] < num_centres,
                "kan_md: edge_index must be sorted by centre and name atoms below ", num_centres,
                ", got centre ", centre[e], " after ", previous, " at edge ", e);
    TORCH_CHECK(neighbour[e] >= 0 && neighbour[e] < num_atoms, "kan_md: edge ", e,
                " names neighbour ", neighbour[e], ", there are ", num_atoms, " atoms");
    previous = centre[e];
    ++first[previous + 1];
  }
  for (int64_t i = 0; i < num_centres; ++i) first[i + 1] += first[i];

  // Threads get whole centres and about the same number of edges each.
  part[0] = 0;
  for (int k = 1; k < num_threads; ++k) {
    const int64_t share = num_edges * k / num_threads;
    part[k] = std::lower_bound(first.begin(), first.end(), share) - first.begin();
    part[k] = std::min(std::max(part[k], part[k - 1]), num_centres);
  }
}

int64_t num_computed(const std::optional<at::Tensor> &num_centres, int64_t num_atoms)
{
  if (!num_centres) return num_atoms;
  TORCH_CHECK(num_centres->numel() == 1 && num_centres->scalar_type() == at::kLong,
              "kan_md: num_centres must be one int64, got ", num_centres->numel(), " of ",
              num_centres->scalar_type());
  const int64_t count = *num_centres->const_data_ptr<int64_t>();
  TORCH_CHECK(count >= 0 && count <= num_atoms, "kan_md: num_centres must be 0 to ", num_atoms,
              ", got ", count);
  return count;
}

int64_t checked_num_types(const at::Tensor &atom_types, int64_t num_pairs)
{
  const int64_t num_types = std::lround(std::sqrt(static_cast<double>(num_pairs)));
  TORCH_CHECK(num_types * num_types == num_pairs,
              "kan_md: tables come one per ordered pair of types, got ", num_pairs);
  if (num_pairs == 1) return 1;
  const int64_t *types = atom_types.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < atom_types.numel(); ++i)
    TORCH_CHECK(types[i] >= 0 && types[i] < num_types, "kan_md: atom type ", types[i], " of atom ",
                i, ", there are ", num_types);
  return num_types;
}

}    // namespace kan_md::ops
