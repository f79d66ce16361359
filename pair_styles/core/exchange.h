// Features of atoms that other ranks own, while a model computes: what the operator kan_md::exchange
// asks for between two layers. Plain C, because the operators' library knows neither LAMMPS nor MPI.

#pragma once

#include <cstdint>

namespace kan_md {

inline constexpr int EXCHANGE_VERSION = 2;

extern "C" {

// Features of nodes in blocks, one after the other: block b is [num_rows][block_bytes[b]], a row for
// each of the first nodes.
struct kan_md_blocks {
  std::int64_t num_rows;
  const std::int64_t *block_bytes;
  int num_blocks;
};

// Nodes [0, num_own) of the graph are this rank's own. Both functions are called by all ranks the same
// number of times in the same order, by a rank without atoms too. They return 0, or another number
// where they failed.
struct kan_md_exchange {
  int version;      // EXCHANGE_VERSION
  void *context;    // first argument of both

  // Features of all nodes: rows of own ones in, those of all others out, zeros for those
  // that nobody sends.
  int (*forward)(void *context, void *features, const kan_md_blocks *blocks, std::int64_t num_own);

  // Gradients by features of all nodes in, those of the others read; adds what all ranks have for
  // this one's nodes to `own`, which has other blocks. `value_bytes`: 4 for float, 8 for double.
  int (*reverse)(void *context, const void *gradients, const kan_md_blocks *blocks, void *own,
                 const kan_md_blocks *own_blocks, std::int64_t num_own, int value_bytes);
};

// Exported by libkan_md_ops.so: calls on this thread go to `exchange` from now on, or, where it is
// null, leave features as they are. Returns whether the versions agree; nothing changes if not.
using kan_md_set_exchange_function = int(const kan_md_exchange *exchange);
}

}    // namespace kan_md
