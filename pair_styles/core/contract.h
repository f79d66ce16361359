// What a deployed file promises: the C++ side of kan_md/contract.py. A test holds the two together.

#pragma once

#include <array>
#include <string_view>

namespace kan_md::contract {

inline constexpr int version = 1;           // of the function
inline constexpr int format_version = 1;    // of the manifest
inline constexpr std::string_view manifest_key = "kan_md_manifest";
inline constexpr std::string_view lists_method = "on_lists";
inline constexpr std::string_view choice_method = "choose_types";

// forward(edge_vectors, edge_index, atom_types, num_local)
inline constexpr std::array<std::string_view, 4> input_fields = {
    "edge_vectors",    // [num_edges, 3] float64, r_neighbour - r_centre, Å
    "edge_index",      // [2, num_edges] int64, row 0 centre, row 1 neighbour, sorted by centre
    "atom_types",      // [num_atoms] int64, index into type_names
    "num_local",       // [1] int64, atoms [0, num_local) own their energy
};

inline constexpr std::array<std::string_view, 2> output_fields = {
    "atomic_energy",    // [num_atoms, 1] float64, eV
    "edge_forces",      // [num_edges, 3] float64, d(sum of local energies)/d(edge_vectors), eV/Å
};

inline constexpr std::array<std::string_view, 4> backbones = {"allegro", "nequip", "mace", "etgnn"};
inline constexpr std::array<std::string_view, 2> backends = {"torchscript", "aotinductor"};
inline constexpr std::array<std::string_view, 2> kinds = {"potential", "tensor"};

// What every manifest has of that which is read here.
inline constexpr std::array<std::string_view, 15> manifest_keys = {
    "backend",       "device",  "backbone",          "r_max",         "num_layers", "type_names",
    "masses",        "cutoffs", "isolated_energies", "min_distances", "kind",       "outputs",
    "static_shapes", "tf32",    "threads",
};

}    // namespace kan_md::contract
