#include "graph.h"

#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace kan_md {

const char *name_of(Layout layout)
{
  switch (layout) {
    case Layout::LOCAL_WITH_GHOSTS:
      return "local atoms with ghosts";
    case Layout::PERIODIC_IMAGES:
      return "periodic images";
    case Layout::HALO:
      return "halo";
    case Layout::EXCHANGE:
      return "exchange";
  }
  return "unknown";
}

namespace {

// THE edge loop: calls `visit(neighbour, dx, dy, dz, rsq)` for each neighbour of `atom` within the
// cutoff of its type pair. LAMMPS' list also holds pairs in the skin and, in hybrid styles, types
// that this style does not know; the latter have a cutoff of zero.
template <typename Visit>
inline void for_each_edge(int atom, const AtomView &atoms, const TypeTable &types, Visit &&visit)
{
  const double *const xi = atoms.x[atom];
  const double *const cutoff_sq =
      types.cutoff_sq.data() + static_cast<std::size_t>(atoms.type[atom]) * types.stride;
  const int *const neighbours = atoms.firstneigh[atom];
  const int count = atoms.numneigh[atom];
  for (int k = 0; k < count; ++k) {
    const int j = neighbours[k] & atoms.neigh_mask;
    const double *const xj = atoms.x[j];
    const double dx = xj[0] - xi[0], dy = xj[1] - xi[1], dz = xj[2] - xi[2];
    const double rsq = dx * dx + dy * dy + dz * dz;
    if (rsq < cutoff_sq[atoms.type[j]]) visit(j, dx, dy, dz, rsq);
  }
}

}    // namespace

int find_lost_atom(const AtomView &atoms)
{
  for (int i = 0; i < atoms.inum; ++i) {
    const double *const x = atoms.x[atoms.ilist[i]];
    if (!std::isfinite(x[0]) || !std::isfinite(x[1]) || !std::isfinite(x[2])) return atoms.ilist[i];
  }
  return -1;
}

Graph first_centres(const Graph &graph, std::int64_t num_edges)
{
  const auto row = graph.edge_index.begin();
  std::int64_t end = std::min(std::max<std::int64_t>(num_edges, 1), graph.num_edges);
  while (end < graph.num_edges && row[end] == row[end - 1]) ++end;
  Graph part = graph;
  part.num_edges = end;
  part.edge_vectors.resize(3 * end);
  part.neighbour_atoms.resize(end);
  part.edge_index.assign(row, row + end);
  part.edge_index.insert(part.edge_index.end(), row + graph.num_edges, row + graph.num_edges + end);
  return part;
}

// The node of the first image that is met. That one has all its neighbours: it is as few hops away
// as any.
int GraphBuilder::node_of(int atom, const int *first_image)
{
  int &node = nodes_[first_image ? first_image[atom] : atom];
  if (node < 0) {
    node = static_cast<int>(graph_.node_atoms.size());
    graph_.node_atoms.push_back(atom);
  }
  return node;
}

// Appends the edges of the nodes [begin, present end) and the nodes that they lead to.
void GraphBuilder::add_centres(int begin, const AtomView &atoms, const TypeTable &types,
                               const int *first_image, int num_threads)
{
  const int end = static_cast<int>(graph_.node_atoms.size());
  const std::int64_t first = graph_.num_edges;
  first_edge_.assign(end - begin + 1, 0);

  in_parallel_parts(num_threads, end - begin, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t k = from; k < to; ++k) {
      std::int64_t count = 0;
      for_each_edge(graph_.node_atoms[begin + k], atoms, types,
                    [&](int, double, double, double, double) { ++count; });
      first_edge_[k + 1] = count;
    }
  });
  for (int k = 0; k < end - begin; ++k) first_edge_[k + 1] += first_edge_[k];
  const std::int64_t total = first + first_edge_[end - begin];
  graph_.edge_vectors.resize(3 * total);
  centres_.resize(total);
  neighbours_.resize(total);

  std::atomic<std::int64_t> all_close{0}, all_coincident{0};
  in_parallel_parts(num_threads, end - begin, [&](std::int64_t from, std::int64_t to) {
    std::int64_t close = 0, coincident = 0;
    for (std::int64_t k = from; k < to; ++k) {
      const std::int64_t node = begin + k;
      std::int64_t edge = first + first_edge_[k];
      const int atom = graph_.node_atoms[node];
      const double *const min_sq =
          types.min_distance_sq.data() + static_cast<std::size_t>(atoms.type[atom]) * types.stride;
      for_each_edge(atom, atoms, types, [&](int j, double dx, double dy, double dz, double rsq) {
        double *const vector = graph_.edge_vectors.data() + 3 * edge;
        vector[0] = dx;
        vector[1] = dy;
        vector[2] = dz;
        centres_[edge] = node;
        neighbours_[edge] = j;    // an atom here, a node below
        if (rsq < min_sq[atoms.type[j]]) ++close;
        if (rsq < COINCIDENT * COINCIDENT) ++coincident;
        ++edge;
      });
    }
    all_close += close;
    all_coincident += coincident;
  });
  // Pairs of owned atoms only, so that the sum over ranks counts each pair as often as one rank does.
  if (begin == 0) {
    graph_.num_close_edges = all_close;
    graph_.num_coincident = all_coincident;
  }

  graph_.neighbour_atoms.resize(total);
  for (std::int64_t edge = first; edge < total; ++edge) {
    const int atom = static_cast<int>(neighbours_[edge]);
    graph_.neighbour_atoms[edge] = atom;
    neighbours_[edge] = node_of(atom, first_image);
  }
  graph_.num_edges = total;
}

const Graph &GraphBuilder::build(const AtomView &atoms, const TypeTable &types,
                                 const int *first_image, int num_threads)
{
  graph_.node_atoms.assign(atoms.ilist, atoms.ilist + atoms.inum);
  graph_.num_local = atoms.inum;
  graph_.num_edges = 0;
  nodes_.assign(atoms.num_all, -1);
  for (int i = 0; i < atoms.inum; ++i) nodes_[atoms.ilist[i]] = i;

  if (layout_ == Layout::LOCAL_WITH_GHOSTS) first_image = nullptr;
  const int hops = layout_ == Layout::HALO ? num_layers_ : 1;
  int begin = 0;
  for (int hop = 0; hop < hops; ++hop) {
    const int end = static_cast<int>(graph_.node_atoms.size());
    add_centres(begin, atoms, types, first_image, num_threads);
    begin = end;
  }

  graph_.num_nodes = static_cast<std::int64_t>(graph_.node_atoms.size());
  graph_.edge_index.resize(2 * graph_.num_edges);
  std::copy(centres_.begin(), centres_.begin() + graph_.num_edges, graph_.edge_index.begin());
  std::copy(neighbours_.begin(), neighbours_.begin() + graph_.num_edges,
            graph_.edge_index.begin() + graph_.num_edges);
  graph_.atom_types.resize(graph_.num_nodes);
  graph_.positions.resize(3 * graph_.num_nodes);
  for (std::int64_t node = 0; node < graph_.num_nodes; ++node) {
    const int atom = graph_.node_atoms[node];
    graph_.atom_types[node] = types.model_type[atoms.type[atom]];
    std::copy(atoms.x[atom], atoms.x[atom] + 3, graph_.positions.begin() + 3 * node);
  }
  return graph_;
}

}    // namespace kan_md
