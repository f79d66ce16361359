// A strictly local potential that reads LAMMPS' neighbour list itself: no array of the size of the
// edges is made. No torch appears here. An operator library may have one beside an operator on edge
// vectors; both compute the same function.

#pragma once

#include "graph.h"

#include <cstdint>

namespace kan_md {

// What a step wants beside energies and forces.
struct LocalRequest {
  int num_threads = 1;
  bool virial = false;
  bool atom_virials = false;
};

// Results of one step, owned by the potential until the next one.
struct LocalResult {
  const double *energies = nullptr;    // [inum], of the centres in the list's order, eV
  const double *forces = nullptr;      // [num_all, 3], of this rank's centres' energies, eV/Å
  // Where they were asked for:
  double virial[9] = {};               // -sum r ⊗ dE/dr, eV
  const double *virials = nullptr;     // [num_all, 3, 3], an edge's share at its neighbour, eV
  std::int64_t num_edges = 0;          // pairs within the cutoff
  std::int64_t num_close_edges = 0;    // pairs closer than any seen in training
  std::int64_t num_coincident = 0;     // pairs shorter than COINCIDENT
};

class LocalPotential {
 public:
  virtual ~LocalPotential() = default;

  // Energies of the owned atoms of a full neighbour list and their derivatives. Positions must be
  // numbers, see find_lost_atom.
  virtual LocalResult compute(const AtomView &atoms, const TypeTable &types,
                              const LocalRequest &request) = 0;

  virtual std::int64_t bytes() const = 0;    // that it holds
};

}    // namespace kan_md
