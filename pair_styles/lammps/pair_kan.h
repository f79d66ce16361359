/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS, pair styles allegro, nequip, mace
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// All LAMMPS call-backs of the three pair styles; a style adds its name and its graph layouts.

#ifndef LMP_PAIR_KAN_H
#define LMP_PAIR_KAN_H

#include "kanmd_exchange.h"

#include "core/compiled_model.h"
#include "core/graph.h"

#include "pair.h"

#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class PairKAN : public Pair {
 public:
  PairKAN(class LAMMPS *lmp, const char *style);
  ~PairKAN() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  void finish() override;
  double memory_usage() override;
  void *extract(const char *, int &) override;

  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;

 protected:
  // Layout for a model of this many hops on this many ranks.
  virtual kan_md::Layout choose_layout(int num_layers, int num_ranks) const = 0;

 private:
  // Of the pair_style command.
  struct Settings {
    std::string device = "auto";
    bool check_mass = true;
    kan_md::Keep keep = kan_md::Keep::STEP;
    bool direct = true;
    std::string halo = "auto";    // exchange where the file can, or exchange, recompute
  };

  Settings read_settings(int narg, char **arg) const;
  [[noreturn]] void refuse_keyword(const std::string &key, const std::string &value) const;
  void allocate();
  std::unique_ptr<kan_md::CompiledModel> open_model(const std::string &path,
                                                    const std::string &device) const;
  void take_model(std::unique_ptr<kan_md::CompiledModel> model);
  void check_model(const kan_md::Manifest &manifest) const;
  void prepare_local();
  kan_md::Layout layout_on_many_ranks(kan_md::Layout layout);
  void check_masses() const;
  void check_special_bonds();
  void request_ghosts();
  void check_ghosts() const;
  double halo_cutoff() const;

  bool lists_are_new() const;
  void find_images();
  kan_md::AtomView view_atoms() const;
  void guard_step(const std::function<void()> &body,
                  std::source_location here = std::source_location::current());
  void compute_sent();
  void compute_resident();
  void compute_local();
  void compare_local(const kan_md::AtomView &atoms);
  void add_local(const kan_md::AtomView &atoms, const kan_md::LocalResult &result);
  void send_list();
  void evaluate(const kan_md::Graph &graph);
  std::vector<kan_md::Array> run_model(const kan_md::Graph &graph);
  void find_absent_atoms();
  bool is_absent(int i) const;
  double energy_of_absent_atoms() const;
  void add_isolated_energies(const kan_md::Graph &graph);
  void add_energies(const kan_md::Graph &graph, const kan_md::Array &energies);
  void add_edge_forces(const kan_md::Graph &graph, const kan_md::Array &edge_forces);
  void add_to_atom(int i, const double *force, const double *virial);
  void add_to_atoms(const kan_md::Graph &graph, const double *forces, const double *virials);
  void add_virial(const kan_md::Graph &graph, const double *virial_3x3);
  void add_virial(const double *virial_3x3);
  void add_node_forces(const kan_md::Graph &graph, const kan_md::Array &forces,
                       const kan_md::Array &virial_3x3);
  void return_ghost_forces();
  void report_start(const kan_md::Graph &graph);
  void report_start(bigint num_local, bigint num_ghosts, bigint num_edges, double forecast);
  double forecast_memory(const kan_md::Graph &graph);
  void warn_of_memory(double forecast);
  void warn_of_close_atoms(std::int64_t num_close_edges);
  void warn_of_bonds(bool lost);
  void warn_of_heat_flux();

  // Forces and per-atom virials of the nodes, one copy per thread.
  struct Tally {
    std::vector<double> force, virial;    // [threads][num_nodes][3], [threads][num_nodes][9]
    std::vector<double> total;            // [threads][9]
  };

  std::string style_;
  std::string file_, path_;    // as pair_coeff names it, and where it is
  std::string who_;            // style and file, before every message
  Settings settings_;
  bool accepted_;    // a pair_style command
  bool ready_;       // what init_style prepared fits the model
  int local_rank_;
  std::unique_ptr<kan_md::CompiledModel> model_;
  std::unique_ptr<kan_md::ResidentModel> resident_;    // borrows model_
  std::unique_ptr<kan_md::LocalPotential> local_;      // model_ on LAMMPS' list
  bool local_compared_;                                // with model_
  std::unique_ptr<kan_md::GraphBuilder> builder_;
  KanmdExchange exchange_;
  int num_exchanges_;    // of the model in layout EXCHANGE, forward
  kan_md::TypeTable types_;
  kan_md::Graph list_;             // that resident_ holds; edges are pairs of the neighbour list
  std::vector<int> list_types_;    // [num_all] LAMMPS types of its atoms
  Tally tally_;
  std::vector<std::int64_t> identity_;    // [num_all], see core/same_atoms.h
  std::vector<int> first_image_;          // [num_all]
  std::vector<double> ghost_return_;      // [num_all][width], newton off
  std::vector<char> absent_;              // [num_local], see find_absent_atoms(); or empty
  int return_width_;
  bigint lists_seen_;    // step of the neighbour lists that identity_ and list_ belong to
  bool start_reported_;
  double cuda_peak_allocated_, cuda_peak_reserved_;    // bytes, for extract()
  bigint close_edges_;                                 // summed over steps, this rank
  bool warned_of_close_, warned_of_virial_, warned_of_bonds_;
};

}    // namespace LAMMPS_NS

#endif
