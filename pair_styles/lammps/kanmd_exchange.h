/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// Features of ghosts from the ranks that own them, by LAMMPS' communication of a pair style.

#ifndef LMP_KANMD_EXCHANGE_H
#define LMP_KANMD_EXCHANGE_H

#include "core/compiled_model.h"
#include "core/exchange.h"

#include <cstddef>
#include <exception>
#include <vector>

namespace LAMMPS_NS {

// What a model exchanges in one evaluation.
struct ExchangeNeeds {
  int count = 0;      // exchanges forward, and as many back
  int doubles = 0;    // per atom, of the widest one
};

class KanmdExchange {
 public:
  // `pair` hands LAMMPS' packing on to this.
  KanmdExchange(class LAMMPS *lmp, class Pair *pair);

  // Tries the model on a pair of atoms. Throws kan_md::Error.
  static ExchangeNeeds needs_of(kan_md::CompiledModel &model);

  // Runs a model that exchanges. All ranks together, also one without atoms. Throws kan_md::Error.
  std::vector<kan_md::Array> run(kan_md::CompiledModel &model, const kan_md::Graph &graph,
                                 const ExchangeNeeds &needs);

  // Whether what LAMMPS packs and unpacks is this.
  bool is_active() const { return active_; }
  int pack_forward(int n, const int *atoms, double *buffer) const;
  void unpack_forward(int n, int first, const double *buffer);
  int pack_reverse(int n, int first, double *buffer) const;
  void unpack_reverse(int n, const int *atoms, const double *buffer);

  double memory_usage() const;

 private:
  void forward(const std::byte *own, std::int64_t num_own, std::byte *others,
               std::int64_t num_others, std::int64_t row_bytes);
  void reverse(std::byte *own, std::int64_t num_own, const std::byte *others,
               std::int64_t num_others, std::int64_t row_bytes, int value_bytes);
  void start_rows(std::int64_t num_own, std::int64_t num_others, std::int64_t row_bytes);
  std::byte *row_of(std::int64_t node);
  template <typename Body> int guarded(Body &&body);

  class LAMMPS *lmp_;
  class Pair *pair_;
  kan_md::kan_md_exchange functions_;
  const kan_md::Graph *graph_;
  bool active_;
  int stride_;                  // doubles per atom, of the present exchange
  int value_bytes_;             // of the gradients that come back
  std::vector<double> rows_;    // [num_all][stride_], values of the model's own type
  int forwards_, reverses_;     // in the present run
  std::exception_ptr failure_;
};

}    // namespace LAMMPS_NS

#endif
