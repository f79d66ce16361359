// Which columns of a tensor model's output make one tensor, and how atoms are combined.

#pragma once

#include "manifest.h"

#include <string>
#include <vector>

namespace kan_md {

// See kan_md/backbones/etgnn/spec.py for the meaning of the fields.
struct TensorOutput {
  std::string name, unit;
  int rank = 0;
  bool per_atom = true;              // or one tensor for the structure
  bool sum = false;                  // of a structure: sum over atoms, or their mean
  bool acoustic_sum_rule = false;    // subtract the mean over all atoms
  int first_column = 0, num_columns = 1;
  int all_columns = 1;             // of the model's output
  double receptive_field = 0.0;    // Å; ghosts beyond do not matter
  double leg_r_max = 0.0;          // Å; of ghosts' neighbours, those beyond do not matter
  std::vector<std::vector<double>>
      isolated;    // [num_types][all_columns], atoms without neighbours
};

// Finds a tensor in the manifest. Throws Error where the model is none of tensors or has no such.
TensorOutput find_tensor(const Manifest &manifest, const std::string &name);

}    // namespace kan_md
