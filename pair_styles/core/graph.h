// The graph that a model sees: nodes and directed edges out of LAMMPS' full neighbour list.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kan_md {

// Atoms closer than this sit on one another: no pair of real atoms comes so near, not in a collision
// cascade either. Å.
inline constexpr double COINCIDENT = 0.01;

// Which atoms become nodes.
enum class Layout {
  // Owned atoms are centres, ghosts appear as neighbours only. Exact for strictly local models on
  // any number of ranks.
  LOCAL_WITH_GHOSTS,
  // One rank: every ghost is the node of its owner, the edge vector points to the image. Exact for
  // message passing, in boxes of any size.
  PERIODIC_IMAGES,
  // Several ranks: ghosts out to num_layers hops are nodes and, but for the last hop, centres; images
  // of one atom share a node. Only owned atoms' energies count; ghosts' forces return to their
  // owners. Exact for message passing.
  HALO,
  // Several ranks, and a model that asks for its ghosts' features between layers: own atoms alone are
  // centres, ghosts of other ranks' atoms are nodes without edges. Exact for message passing.
  EXCHANGE,
};

const char *name_of(Layout layout);

struct Graph {
  std::int64_t num_local = 0;    // nodes [0, num_local) own their energy
  std::int64_t num_nodes = 0;
  std::int64_t num_edges = 0;
  std::vector<double> edge_vectors;        // [num_edges, 3] r_neighbour - r_centre, Å
  std::vector<std::int64_t> edge_index;    // [2, num_edges] centres (ascending), neighbours
  std::vector<std::int64_t> atom_types;    // [num_nodes] model types
  std::vector<double> positions;           // [num_nodes, 3] Å
  std::vector<int> node_atoms;             // [num_nodes] index of the atom in LAMMPS
  std::vector<int> neighbour_atoms;        // [num_edges] of the neighbour, image or not
  std::int64_t num_close_edges = 0;        // edges shorter than any pair seen in training
  std::int64_t num_coincident = 0;         // edges shorter than COINCIDENT
};

// The same nodes with the edges of the first centres only, about `num_edges` of them.
Graph first_centres(const Graph &graph, std::int64_t num_edges);

// LAMMPS' arrays, borrowed for one call.
struct AtomView {
  const double *const *x;    // [num_all][3]
  const int *type;           // [num_all] LAMMPS types, from 1
  int num_all;               // owned and ghost atoms
  const int *ilist;          // owned atoms of this pair style
  int inum;
  const int *numneigh;    // by atom index; of ghosts too where the list was asked for
  const int *const *firstneigh;
  int neigh_mask;    // clears the bits that LAMMPS packs into a neighbour index
};

// The first owned atom whose position is not a number, or -1. In a comparison with a cutoff it would
// vanish silently.
int find_lost_atom(const AtomView &atoms);

// Cutoffs and names of one pair style, by LAMMPS type.
struct TypeTable {
  std::vector<int> model_type;            // [ntypes + 1], -1 where unmapped
  std::vector<double> cutoff_sq;          // [(ntypes + 1)^2], centre type first
  std::vector<double> min_distance_sq;    // the same
  int stride = 0;                         // ntypes + 1
};

class GraphBuilder {
 public:
  GraphBuilder(Layout layout, int num_layers) : layout_(layout), num_layers_(num_layers) {}

  Layout layout() const { return layout_; }

  // Builds the graph of the present positions. `first_image` [num_all] is that of find_same_atoms;
  // layout LOCAL_WITH_GHOSTS does not read it. Positions must be numbers, see find_lost_atom.
  const Graph &build(const AtomView &atoms, const TypeTable &types, const int *first_image,
                     int num_threads);

 private:
  void add_centres(int begin, const AtomView &atoms, const TypeTable &types, const int *first_image,
                   int num_threads);
  int node_of(int atom, const int *first_image);

  Layout layout_;
  int num_layers_;
  Graph graph_;
  std::vector<int> nodes_;    // [num_all] node of an atom's first image, or -1
  std::vector<std::int64_t> first_edge_;
  std::vector<std::int64_t> centres_, neighbours_;
};

}    // namespace kan_md
