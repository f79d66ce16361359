#include "type_map.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace kan_md {

TypeTable map_types(const Manifest &manifest, const std::vector<std::string> &names, int num_types)
{
  const int num_names = static_cast<int>(names.size()), n = num_types + 1;
  if (num_names != num_types)
    throw Error("the input must name one element (or NULL) for each of the " +
                    std::to_string(num_types) + " atom types",
                std::to_string(num_names) + " names", "",
                "list the elements in the order of the atom types");
  TypeTable table;
  table.stride = n;
  table.model_type.assign(n, -1);
  table.cutoff_sq.assign(static_cast<std::size_t>(n) * n, 0.0);
  table.min_distance_sq.assign(static_cast<std::size_t>(n) * n, 0.0);
  for (int i = 1; i < n; ++i) {
    const std::string &name = names[i - 1];
    if (name == "NULL") continue;
    table.model_type[i] = manifest.type_of(name);
    if (table.model_type[i] < 0)
      throw Error("element of atom type " + std::to_string(i), name,
                  manifest.known_types() + ", NULL", "use a model trained with this element");
  }
  if (*std::max_element(table.model_type.begin(), table.model_type.end()) < 0)
    throw Error("the input must name an element", "NULL for every atom type",
                manifest.known_types(), "map at least one atom type");
  for (int i = 1; i < n; ++i)
    for (int j = 1; j < n; ++j) {
      const int a = table.model_type[i], b = table.model_type[j];
      if (a < 0 || b < 0) continue;
      const double cutoff = manifest.cutoffs[a * manifest.num_types() + b];
      const double closest = manifest.min_distances[a * manifest.num_types() + b];
      table.cutoff_sq[i * n + j] = cutoff * cutoff;
      table.min_distance_sq[i * n + j] = closest * closest;
    }
  return table;
}

std::vector<int> chosen_types(const TypeTable &types)
{
  std::set<int> chosen(types.model_type.begin(), types.model_type.end());
  chosen.erase(-1);
  return {chosen.begin(), chosen.end()};
}

bool is_mass_of(double known, double found)
{
  return std::abs(found - known) <= std::max(0.02, 0.003 * known);
}

}    // namespace kan_md
