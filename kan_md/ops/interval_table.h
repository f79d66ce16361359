// Where a distance lies in a table of intervals of any width; see kan_md/ops/interval_tables.py.

#ifndef KAN_MD_OPS_INTERVAL_TABLE_H
#define KAN_MD_OPS_INTERVAL_TABLE_H

#include <algorithm>
#include <cstdint>

namespace kan_md::ops {

struct IntervalPlace {
  int64_t interval = 0;
  double t = 0.0;    // in [0, 1] inside it
  double inverse_width = 0.0;
};

// The tables of one pair of types. cells: the interval that holds the start of each of equal parts of
// [0, cutoff], from where it is few steps to the one that holds r.
struct IntervalEnds {
  const double *ends;    // [num_intervals + 1], the last one is the cutoff
  const int32_t *cells;
  int64_t num_intervals, num_cells;

  // False beyond the cutoff, where all functions are zero with two derivatives.
  bool find(double r, IntervalPlace &place) const
  {
    const double cutoff = ends[num_intervals];
    if (!(r < cutoff)) return false;
    const auto cell = static_cast<int64_t>(r / cutoff * static_cast<double>(num_cells));
    place.interval = cells[std::min(cell, num_cells - 1)];
    while (r >= ends[place.interval + 1]) ++place.interval;
    const double low = ends[place.interval];
    place.inverse_width = 1.0 / (ends[place.interval + 1] - low);
    place.t = (r - low) * place.inverse_width;
    return true;
  }
};

}    // namespace kan_md::ops

#endif
