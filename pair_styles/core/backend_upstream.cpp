// What files of nequip-compile need, in either format.

#include "backend.h"

#include <ATen/ops/eye.h>

#include <cmath>
#include <sstream>

namespace kan_md {

namespace {

const std::string REMEDY = "compile it again with nequip-compile --target pair_nequip";

std::vector<std::string> words_of(const Metadata &metadata, const std::string &key)
{
  std::vector<std::string> words;
  const auto found = metadata.find(key);
  if (found == metadata.end()) return words;
  std::istringstream stream(found->second);
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

double number_of(const std::string &word, const std::string &key)
{
  try {
    return std::stod(word);
  } catch (const std::logic_error &) {
    throw Error("metadata entry " + key + " must be a number", word, "", REMEDY);
  }
}

// A chain of atoms of one type along x, `spacing` apart, each seeing its next neighbours.
Graph chain(int num_atoms, double spacing, int type)
{
  Graph graph;
  graph.num_local = graph.num_nodes = num_atoms;
  std::vector<std::int64_t> centres, neighbours;
  for (int i = 0; i < num_atoms; ++i) {
    graph.positions.insert(graph.positions.end(), {i * spacing, 0.0, 0.0});
    graph.atom_types.push_back(type);
    for (const int j : {i - 1, i + 1}) {
      if (j < 0 || j >= num_atoms) continue;
      centres.push_back(i);
      neighbours.push_back(j);
      graph.edge_vectors.insert(graph.edge_vectors.end(), {(j - i) * spacing, 0.0, 0.0});
    }
  }
  graph.num_edges = static_cast<std::int64_t>(centres.size());
  graph.edge_index = centres;
  graph.edge_index.insert(graph.edge_index.end(), neighbours.begin(), neighbours.end());
  return graph;
}

}    // namespace

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

void learn_from_probes(CompiledModel &model, Manifest &manifest)
{
  double largest_change = 0.0;
  for (int type = 0; type < manifest.num_types(); ++type) {
    // Edges longer than the cutoff carry nothing: the ends of a stretched pair are isolated atoms.
    manifest.isolated_energies.push_back(
        model.run(chain(2, 1.5 * manifest.r_max, type))[0].data[0]);
    // The ends of three atoms at 0.6 r_max do not see each other.
    const double spacing =
        0.6 * manifest.cutoffs[static_cast<std::size_t>(type) * (manifest.num_types() + 1)];
    const double pair_end = model.run(chain(2, spacing, type))[0].data[0];
    const double chain_end = model.run(chain(3, spacing, type))[0].data[0];
    const double scale =
        std::abs(pair_end) + std::abs(pair_end - manifest.isolated_energies.back());
    largest_change = std::max(largest_change, std::abs(chain_end - pair_end) / (scale + 1e-30));
  }
  const bool passes_messages = largest_change > 1e-6;
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
