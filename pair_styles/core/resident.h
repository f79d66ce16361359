// A model on an accelerator that keeps LAMMPS' neighbour list there between two rebuilds, so that a
// step sends positions up and forces down, and nothing else. No torch appears here.

#pragma once

#include "graph.h"

#include <cstdint>
#include <string>

namespace kan_md {

// How much of a step stays on the device.
enum class Keep {
  NOTHING,    // every step sends its graph
  LIST,       // the neighbour list stays
  STEP,       // the launches of a whole step are recorded once and replayed
};

// Results of one step, on the host until the next one.
struct StepResult {
  double energy = 0.0;                 // of the local atoms, eV
  std::int64_t num_edges = 0;          // pairs within the cutoff
  std::int64_t num_close_edges = 0;    // pairs closer than any seen in training
  bool coincident_atoms = false;       // some sit on one another, see COINCIDENT
  const double *virial = nullptr;      // [3, 3], -sum r ⊗ dE/dr, eV
  const double *forces = nullptr;      // [num_nodes, 3], eV/Å
  // Where they were asked for:
  const double *energies = nullptr;    // [num_nodes], eV
  const double *virials = nullptr;     // [num_nodes, 3, 3], an edge's share at its neighbour, eV
};

class ResidentModel {
 public:
  virtual ~ResidentModel() = default;

  // Where the list and the step are, for the line at start.
  virtual std::string description() const = 0;

  // Takes a graph whose edges are all pairs of the neighbour list, the skin's included, between
  // `num_atoms` atoms. Every node that is not local must be a neighbour only. Throws Error.
  virtual void set_list(const Graph &list, int num_atoms) = 0;

  // Evaluates the model for the positions [num_atoms][3] of the list's atoms. Throws Error.
  virtual StepResult step(const double *const *positions, bool per_atom) = 0;
};

}    // namespace kan_md
