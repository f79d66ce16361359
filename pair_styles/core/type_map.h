// Which of a model's types LAMMPS' atom types are.

#pragma once

#include "graph.h"
#include "manifest.h"

#include <string>
#include <vector>

namespace kan_md {

// Maps atom type i + 1 to the model's type of the element `names[i]`, or to none for NULL, and gives
// the pairs of types their cutoffs. Throws Error where there are not `num_types` names, one is
// unknown, or all are NULL.
TypeTable map_types(const Manifest &manifest, const std::vector<std::string> &names, int num_types);

// The model's types that atom types are mapped to, ascending.
std::vector<int> chosen_types(const TypeTable &types);

// Whether a mass is that of an element: isotopes and rounded values (H 1.0, C 12) pass, neighbours in
// the periodic table do not. Both in u.
bool is_mass_of(double known, double found);

}    // namespace kan_md
