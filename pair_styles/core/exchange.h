// Features of atoms that other ranks own, while a model computes: what the operator kan_md::exchange
// asks for between two layers. Plain C, because the operators' library knows neither LAMMPS nor MPI.

#pragma once

#include <cstddef>
#include <cstdint>

namespace kan_md {

inline constexpr int EXCHANGE_VERSION = 1;

extern "C" {

// Rows of features, one for each node of the graph: nodes [0, num_own) are this rank's own. Both
// functions are called by all ranks the same number of times in the same order, by a rank without
// atoms too. They return 0, or another number where they failed.
struct kan_md_exchange {
  int version;      // EXCHANGE_VERSION
  void *context;    // first argument of both

  // Rows of own nodes in, rows of the others out; these are zero on entry.
  int (*forward)(void *context, const void *own, std::int64_t num_own, void *others,
                 std::int64_t num_others, std::int64_t row_bytes);

  // Gradients by rows of the others in; adds those of all ranks to the gradients by own rows.
  // `value_bytes`: 4 for float, 8 for double.
  int (*reverse)(void *context, void *own, std::int64_t num_own, const void *others,
                 std::int64_t num_others, std::int64_t row_bytes, int value_bytes);
};

// Exported by libkan_md_ops.so: calls on this thread go to `exchange` from now on, or, where it is
// null, leave features as they are. Returns whether the versions agree; nothing changes if not.
using kan_md_set_exchange_function = int(const kan_md_exchange *exchange);
}

}    // namespace kan_md
