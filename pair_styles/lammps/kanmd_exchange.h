/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Features of ghosts from the ranks that own them: one message to each rank that has ghosts of this
// one's atoms, with a row for each atom that it needs, however many images of it there are.

#ifndef LMP_KANMD_EXCHANGE_H
#define LMP_KANMD_EXCHANGE_H

#include "core/compiled_model.h"
#include "core/exchange.h"

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

namespace LAMMPS_NS {

class KanmdExchange {
 public:
  explicit KanmdExchange(class LAMMPS *lmp);

  // How often a model exchanges in one evaluation, forward, and as often back: it is tried on a pair
  // of atoms. Throws kan_md::Error.
  static int count_of(kan_md::CompiledModel &model);

  // Whose ghosts there are, for `identities` [num_all] of core/same_atoms.h. All ranks together, for
  // each new neighbour list.
  void find_partners(const std::vector<std::int64_t> &identities);

  // Runs a model that exchanges `count` times. All ranks together, also one without atoms. Throws
  // kan_md::Error.
  std::vector<kan_md::Array> run(kan_md::CompiledModel &model, const kan_md::Graph &graph,
                                 int count);

  double memory_usage() const;

 private:
  // A rank, and those nodes whose rows go to it or come from it: a part of `nodes` of their side.
  struct Partner {
    int rank;
    int most;    // nodes that its neighbour list may ask for
    int begin, count;
  };
  // What goes one way: nodes by partner, and the rows of all of them, partner by partner.
  struct Side {
    std::vector<Partner> partners;
    std::vector<int> nodes;
    std::vector<std::byte> rows;
  };

  void ask_for_rows();
  void transfer(Side &from, Side &to, std::int64_t row_bytes);
  void forward(std::byte *features, const kan_md::kan_md_blocks &blocks, std::int64_t num_own);
  void reverse(const std::byte *gradients, const kan_md::kan_md_blocks &blocks, std::byte *own,
               const kan_md::kan_md_blocks &own_blocks, std::int64_t num_own, int value_bytes);
  void check_nodes(const kan_md::kan_md_blocks &blocks, std::int64_t num_own) const;
  template <typename Body> int guarded(Body &&body);

  class LAMMPS *lmp_;
  kan_md::kan_md_exchange functions_;
  const kan_md::Graph *graph_;
  std::vector<std::int64_t> identities_;    // [num_all]
  Side owners_, askers_;                    // of this rank's ghosts; ranks with ghosts of its atoms
  std::vector<int> atoms_;           // of nodes that are asked for, as their owners number them
  std::vector<int> node_of_atom_;    // [num_local atoms], or -1
  std::vector<MPI_Request> requests_;
  int forwards_, reverses_;    // in the present run
  std::exception_ptr failure_;
};

}    // namespace LAMMPS_NS

#endif
