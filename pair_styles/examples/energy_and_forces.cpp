/* Energy and forces of a structure by a deployed potential: the core without LAMMPS, and without
   torch's headers. LIB is the folder that `kan-md build` prints, SOURCES that above this file's:

   c++ -std=c++20 -O2 -I SOURCES SOURCES/examples/energy_and_forces.cpp SOURCES/core/cell_list.cpp
     SOURCES/core/backend_linked.cpp LIB/libkan_md_backend.so -Wl,-rpath,LIB -o energy_and_forces
   ./energy_and_forces my.deployed.pth structure.xyz      (extended XYZ; Lattice makes it periodic) */

#include "core/cell_list.h"
#include "core/compiled_model.h"
#include "core/error.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>

struct Structure {
  std::vector<std::string> elements;
  std::vector<double> positions, cell;    // [num_atoms, 3]; [3, 3], empty without Lattice. Å
};

static Structure read_structure(const char *path)
{
  std::ifstream file(path);
  std::string line, element;
  std::size_t count = 0;
  Structure read;
  if (!(file >> count) || !std::getline(file, line) || !std::getline(file, line))
    throw kan_md::Error("structure", path, "extended XYZ", "give another file");
  double number;
  if (const auto at = line.find("Lattice=\""); at != std::string::npos)
    for (std::istringstream lattice(line.substr(at + 9)); lattice >> number;)
      read.cell.push_back(number);
  for (; read.elements.size() < count && std::getline(file, line);) {
    std::istringstream row(line);
    row >> element;
    read.elements.push_back(element);
    for (int k = 0; k < 3 && row >> number; ++k) read.positions.push_back(number);
  }
  if (read.positions.size() != 3 * count || (!read.cell.empty() && read.cell.size() != 9))
    throw kan_md::Error("structure", path, "one with three coordinates per atom", "mend the file");
  return read;
}

// All images of the atoms that can be within the cutoff of one of them; the atoms themselves first.
static std::vector<double> with_images(const Structure &s, double cutoff, std::vector<int> &owner)
{
  std::vector<double> x = s.positions;
  const int count = static_cast<int>(s.elements.size());
  for (int i = 0; i < count; ++i) owner.push_back(i);
  if (s.cell.empty()) return x;
  const double *const a = s.cell.data();
  int reach[3];
  for (int k = 0; k < 3; ++k) {    // distance of lattice planes, and how far atoms lie apart
    const double *b = a + 3 * ((k + 1) % 3), *c = a + 3 * ((k + 2) % 3), *d = a + 3 * k;
    const double n[3] = {b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2],
                         b[0] * c[1] - b[1] * c[0]};
    const double volume = std::abs(d[0] * n[0] + d[1] * n[1] + d[2] * n[2]);
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < count; ++i) {
      const double along = x[3 * i] * n[0] + x[3 * i + 1] * n[1] + x[3 * i + 2] * n[2];
      low = std::fmin(low, along), high = std::fmax(high, along);
    }
    const double area = std::hypot(n[0], n[1], n[2]);
    reach[k] = static_cast<int>(std::ceil((cutoff * area + high - low) / volume));
  }
  for (int u = -reach[0]; u <= reach[0]; ++u)
    for (int v = -reach[1]; v <= reach[1]; ++v)
      for (int w = -reach[2]; w <= reach[2]; ++w)
        for (int i = 0; i < count && (u || v || w); ++i) {
          for (int k = 0; k < 3; ++k)
            x.push_back(s.positions[3 * i + k] + u * a[k] + v * a[3 + k] + w * a[6 + k]);
          owner.push_back(i);
        }
  return x;
}

static kan_md::Graph make_graph(const Structure &structure, const kan_md::Manifest &manifest)
{
  std::vector<int> owner;
  const std::vector<double> x = with_images(structure, manifest.r_max, owner);
  std::vector<const double *> rows;
  for (std::size_t i = 0; i < owner.size(); ++i) rows.push_back(x.data() + 3 * i);
  kan_md::Graph graph;
  graph.num_local = graph.num_nodes = static_cast<std::int64_t>(structure.elements.size());
  for (const std::string &name : structure.elements) {
    graph.atom_types.push_back(manifest.type_of(name));
    if (graph.atom_types.back() < 0)
      throw kan_md::Error("element of the structure", name, manifest.known_types(), "take another");
  }
  kan_md::CellList list;
  list.build(rows.data(), static_cast<int>(rows.size()), static_cast<int>(graph.num_local),
             std::vector<char>(rows.size(), 1), manifest.r_max, 0.0);
  std::vector<std::int64_t> neighbours;
  for (int i = 0; i < graph.num_local; ++i)
    for (int n = 0; n < list.counts()[i]; ++n) {
      const int j = list.neighbours()[i][n];
      const double vector[] = {rows[j][0] - rows[i][0], rows[j][1] - rows[i][1],
                               rows[j][2] - rows[i][2]};
      const std::int64_t pair =
          graph.atom_types[i] * manifest.num_types() + graph.atom_types[owner[j]];
      if (std::hypot(vector[0], vector[1], vector[2]) >= manifest.cutoffs[pair]) continue;
      graph.edge_vectors.insert(graph.edge_vectors.end(), vector, vector + 3);
      graph.edge_index.push_back(i);
      neighbours.push_back(owner[j]);
    }
  graph.num_edges = static_cast<std::int64_t>(neighbours.size());
  graph.edge_index.insert(graph.edge_index.end(), neighbours.begin(), neighbours.end());
  return graph;
}

int main(int argc, char **argv)
try {
  if (argc != 3) throw kan_md::Error("usage: energy_and_forces MODEL STRUCTURE.xyz");
  const auto model = kan_md::load_compiled_model(argv[1], {.device = "cpu"});
  if (model->manifest().kind != "potential" ||
      model->manifest().convention != kan_md::Convention::EDGE_FORCES)
    throw kan_md::Error("model", argv[1], "a potential by kan-md deploy", "give another file");
  const kan_md::Graph graph = make_graph(read_structure(argv[2]), model->manifest());
  if (!graph.num_edges) throw kan_md::Error("no two atoms are within the cutoff of the model");
  const std::set<int> types(graph.atom_types.begin(), graph.atom_types.end());
  model->choose_types({types.begin(), types.end()});    // what a file of many elements needs first
  const std::vector<kan_md::Array> found = model->run(graph);
  double energy = 0.0;
  std::vector<double> forces(3 * graph.num_nodes);
  for (std::int64_t i = 0; i < graph.num_local; ++i) energy += found[0].data[i];
  for (std::int64_t e = 0; e < graph.num_edges; ++e)
    for (int k = 0; k < 3; ++k) {    // the derivative by r_neighbour - r_centre
      forces[3 * graph.edge_index[e] + k] += found[1].data[3 * e + k];
      forces[3 * graph.edge_index[graph.num_edges + e] + k] -= found[1].data[3 * e + k];
    }
  std::printf("energy %.12g eV\n", energy);
  for (std::int64_t i = 0; i < graph.num_nodes; ++i)
    std::printf("force %.12g %.12g %.12g eV/A\n", forces[3 * i], forces[3 * i + 1],
                forces[3 * i + 2]);
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "energy_and_forces: error: %s\n", error.what());
  return 2;
}
