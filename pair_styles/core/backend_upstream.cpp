// What files of nequip-compile need, in either format.

#include "backend.h"
#include "text.h"

#include <ATen/ops/eye.h>

#include <algorithm>
#include <cmath>

namespace kan_md {

namespace {

const std::string REMEDY = "compile it again with nequip-compile --target pair_nequip";

double number_of(const std::string &word, const std::string &key)
{
  const auto number = number_in(word);
  if (!number || !std::isfinite(*number))
    throw Error("metadata entry " + key + " must be a finite number", word, "", REMEDY);
  return *number;
}

// Separate molecules in one graph, so that one evaluation answers all questions.
class Probes {
 public:
  // Adds a bent chain of atoms, `spacing` Å apart, each seeing its next neighbours only, wherever the
  // others are. Returns the node of its first atom.
  std::int64_t add_chain(const std::vector<std::int64_t> &types, double spacing)
  {
    const std::int64_t first = graph_.num_nodes;
    const auto size = static_cast<std::int64_t>(types.size());
    for (std::int64_t i = 0; i < size; ++i) {
      // 130 degrees between bonds, so that no component of a force vanishes by symmetry.
      const double x = 0.9063 * spacing * static_cast<double>(i),
                   y = i % 2 ? 0.4226 * spacing : 0.0;
      graph_.positions.insert(graph_.positions.end(), {x, y, 0.0});
    }
    for (std::int64_t i = 0; i < size; ++i)
      for (const std::int64_t j : {i - 1, i + 1}) {
        if (j < 0 || j >= size) continue;
        centres_.push_back(first + i);
        neighbours_.push_back(first + j);
        for (int a = 0; a < 3; ++a)
          graph_.edge_vectors.push_back(graph_.positions[3 * (first + j) + a] -
                                        graph_.positions[3 * (first + i) + a]);
      }
    graph_.atom_types.insert(graph_.atom_types.end(), types.begin(), types.end());
    graph_.num_local = graph_.num_nodes = first + size;
    return first;
  }

  const Graph &graph()
  {
    graph_.num_edges = static_cast<std::int64_t>(centres_.size());
    graph_.edge_index = centres_;
    graph_.edge_index.insert(graph_.edge_index.end(), neighbours_.begin(), neighbours_.end());
    return graph_;
  }

 private:
  Graph graph_;
  std::vector<std::int64_t> centres_, neighbours_;
};

}    // namespace

std::vector<std::string> words_of(const Metadata &metadata, const std::string &key)
{
  const auto found = metadata.find(key);
  return found == metadata.end() ? std::vector<std::string>() : words_of(found->second);
}

Manifest upstream_manifest(const Metadata &metadata, const std::string &backend)
{
  Manifest manifest;
  manifest.kind = "potential";
  manifest.backend = backend;
  manifest.convention = Convention::NODE_FORCES;
  manifest.type_names = words_of(metadata, "type_names");
  const auto r_max = words_of(metadata, "r_max");
  if (manifest.type_names.empty() || r_max.size() != 1)
    throw Error("model file must be of kan-md deploy or nequip-compile",
                "one without kan_md_manifest and without r_max and type_names", "",
                "run kan-md deploy (a kan-md or nequip model) or kan-md convert (a MACE model)");
  manifest.r_max = number_of(r_max[0], "r_max");
  const std::size_t pairs = manifest.type_names.size() * manifest.type_names.size();
  manifest.cutoffs.assign(pairs, manifest.r_max);
  const auto cutoffs = words_of(metadata, "per_edge_type_cutoff");
  for (std::size_t k = 0; cutoffs.size() == pairs && k < pairs; ++k)
    manifest.cutoffs[k] = number_of(cutoffs[k], "per_edge_type_cutoff");
  manifest.min_distances.assign(pairs, 0.0);
  return manifest;
}

// The force on the first atom of a chain comes from its own energy and its neighbour's. Where an
// energy depends on an atom's own neighbours only, these are the energies of three atoms, and a fourth
// one changes nothing. Forces know nothing of reference energies, however large these are.
void learn_from_probes(CompiledModel &model, const Archive &archive, Manifest &manifest)
{
  constexpr double SPACINGS[] = {0.45, 0.65};    // of the cutoff
  constexpr double ROUNDING = 1e-5;              // of the largest force, float32
  const auto num_types = static_cast<std::int64_t>(manifest.num_types());
  Probes probes;
  std::vector<std::int64_t> isolated, of_three, of_four;
  for (std::int64_t type = 0; type < num_types; ++type) {
    // Edges longer than the cutoff carry nothing: the ends of a stretched pair are isolated atoms.
    isolated.push_back(probes.add_chain({type, type}, 1.5 * manifest.r_max));
    for (const std::int64_t other : {type, (type + 1) % num_types}) {
      const double cutoff = std::min(manifest.cutoffs[type * num_types + other],
                                     manifest.cutoffs[other * num_types + type]);
      for (const double spacing : SPACINGS) {
        of_three.push_back(probes.add_chain({type, other, type}, spacing * cutoff));
        of_four.push_back(probes.add_chain({type, other, type, other}, spacing * cutoff));
      }
    }
  }
  const auto outputs = model.run(probes.graph());
  const double *const energies = outputs.at(0).data, *const forces = outputs.at(1).data;
  for (const std::int64_t node : isolated) manifest.isolated_energies.push_back(energies[node]);
  double change = 0.0, largest = 0.0;
  for (std::size_t k = 0; k < of_three.size(); ++k)
    for (int a = 0; a < 3; ++a) {
      const double three = forces[3 * of_three[k] + a], four = forces[3 * of_four[k] + a];
      if (!std::isfinite(three) || !std::isfinite(four))
        throw Error("forces of a model file must be numbers", "nan or inf for a few atoms in a row",
                    "", REMEDY);
      change = std::max(change, std::abs(four - three));
      largest = std::max({largest, std::abs(three), std::abs(four)});
    }
  // TorchScript files name the classes that they are made of.
  const bool convolutions = archive.contains("code/__torch__/nequip/nn/interaction_block");
  const bool passes_messages = convolutions || change > ROUNDING * largest;
  manifest.backbone = passes_messages ? "nequip" : "allegro";
  manifest.num_layers = passes_messages ? 2 : 1;    // two or more: the file does not say
}

UpstreamInputs upstream_inputs(const Graph &graph, c10::Device device)
{
  const GraphTensors t = to_tensors(graph, device);
  const auto neighbours = t.positions.index_select(0, t.edge_index.select(0, 1));
  const auto centres = t.positions.index_select(0, t.edge_index.select(0, 0));
  UpstreamInputs in;
  in.pos = t.positions.clone();    // differentiated by the model: not LAMMPS' own memory
  in.edge_index = t.edge_index;
  in.atom_types = t.atom_types;
  in.cell = at::eye(3, t.positions.options()).reshape({1, 3, 3});
  in.edge_cell_shift = t.edge_vectors.sub(neighbours.sub(centres));
  return in;
}

}    // namespace kan_md
