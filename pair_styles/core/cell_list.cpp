#include "cell_list.h"

#include <algorithm>
#include <cmath>

namespace kan_md {

namespace {

// More cells than this per atom only cost memory (a few atoms in a huge box).
constexpr double CELLS_PER_ATOM = 4.0;

}    // namespace

void CellList::build(const double *const *x, int num_all, int num_centres,
                     const std::vector<char> &use, double cutoff, double ghost_cutoff)
{
  double low[3] = {0.0, 0.0, 0.0}, high[3] = {0.0, 0.0, 0.0};
  bool any = false;
  for (int i = 0; i < num_all; ++i) {
    if (!use[i] || !std::isfinite(x[i][0] + x[i][1] + x[i][2])) continue;
    for (int d = 0; d < 3; ++d) {
      low[d] = any ? std::min(low[d], x[i][d]) : x[i][d];
      high[d] = any ? std::max(high[d], x[i][d]) : x[i][d];
    }
    any = true;
  }
  double width = std::max(cutoff, ghost_cutoff);
  int cells[3];
  for (;; width *= 1.5) {
    double total = 1.0;
    for (int d = 0; d < 3; ++d) {
      const double count = std::floor((high[d] - low[d]) / width) + 1.0;
      cells[d] = static_cast<int>(std::min(count, 1e6));
      total *= count;
    }
    if (total <= CELLS_PER_ATOM * num_all + 27.0) break;
  }

  // Atoms sorted by cell. A position that is no number has no cell; the graph builder reports it.
  const auto cell_along = [&](double position, int d) {
    return std::min(cells[d] - 1, static_cast<int>((position - low[d]) / width));
  };
  const int num_cells = cells[0] * cells[1] * cells[2];
  cell_of_.assign(num_all, -1);
  cell_start_.assign(num_cells + 1, 0);
  for (int i = 0; i < num_all; ++i) {
    if (!use[i] || !std::isfinite(x[i][0] + x[i][1] + x[i][2])) continue;
    cell_of_[i] = (cell_along(x[i][2], 2) * cells[1] + cell_along(x[i][1], 1)) * cells[0] +
                  cell_along(x[i][0], 0);
    ++cell_start_[cell_of_[i] + 1];
  }
  for (int c = 0; c < num_cells; ++c) cell_start_[c + 1] += cell_start_[c];
  cell_atoms_.resize(cell_start_[num_cells]);
  std::vector<int> filled(cell_start_.begin(), cell_start_.end() - 1);
  for (int i = 0; i < num_all; ++i)
    if (cell_of_[i] >= 0) cell_atoms_[filled[cell_of_[i]]++] = i;

  counts_.assign(num_all, 0);
  offsets_.assign(num_all, 0);
  pairs_.clear();
  for (int i = 0; i < num_all; ++i) {
    offsets_[i] = static_cast<long>(pairs_.size());
    const double limit = i < num_centres ? cutoff : ghost_cutoff;
    if (cell_of_[i] < 0 || limit <= 0.0) continue;
    int from[3], to[3];
    for (int d = 0; d < 3; ++d) {
      const int own = cell_along(x[i][d], d);
      from[d] = std::max(0, own - 1);
      to[d] = std::min(cells[d] - 1, own + 1);
    }
    for (int cz = from[2]; cz <= to[2]; ++cz)
      for (int cy = from[1]; cy <= to[1]; ++cy) {
        const int row = (cz * cells[1] + cy) * cells[0];
        for (int k = cell_start_[row + from[0]]; k < cell_start_[row + to[0] + 1]; ++k) {
          const int j = cell_atoms_[k];
          const double dx = x[j][0] - x[i][0], dy = x[j][1] - x[i][1], dz = x[j][2] - x[i][2];
          if (j != i && dx * dx + dy * dy + dz * dz < limit * limit) pairs_.push_back(j);
        }
      }
    counts_[i] = static_cast<int>(static_cast<long>(pairs_.size()) - offsets_[i]);
  }
  first_.resize(num_all);
  for (int i = 0; i < num_all; ++i) first_[i] = pairs_.data() + offsets_[i];
}

}    // namespace kan_md
