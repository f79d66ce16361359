// What a model file says of itself, as far as it matters to a run; see kan_md/contract.py for the meaning of every field.

#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kan_md {

// How the file's outputs are to be read.
enum class Convention {
  EDGE_FORCES,    // kan-md: derivatives with respect to edge vectors
  NODE_FORCES,    // nequip-compile: forces on nodes and a global virial
};

struct Manifest {
  std::string kind, backend, device, backbone;
  double r_max = 0.0;            // Å
  int num_layers = 1;            // hops that an atom's energy depends on
  int threads = 0;               // baked into an AOTInductor CPU file; 0 where it does not matter
  bool static_shapes = false;    // no shape depends on data: a GPU can replay the file
  bool tf32 = false;             // float32 matrices may be multiplied with 10 bits of mantissa
  std::vector<std::string> type_names;
  std::vector<double> masses;               // u; empty where the file has none
  std::vector<double> cutoffs;              // [num_types * num_types] Å, centre type first
  std::vector<double> min_distances;        // the same; closest training pair, 0 where never seen
  std::vector<double> isolated_energies;    // eV
  std::string outputs;                      // JSON
  // The project's own operators that the file calls; files of before do not say.
  std::optional<std::vector<std::string>> operators;
  Convention convention = Convention::EDGE_FORCES;

  int num_types() const { return static_cast<int>(type_names.size()); }

  // Index of an element's name, or -1.
  int type_of(const std::string &name) const;

  // The names in one line, for messages.
  std::string known_types() const;

  // Reads `key=value` lines, and of these what is needed here; others are left alone.
  // Throws Error on a line without '=', a missing key, another contract version, a newer format, a
  // value that is no number, or lists of unequal lengths.
  static Manifest from_text(const std::string &text);
};

}    // namespace kan_md
