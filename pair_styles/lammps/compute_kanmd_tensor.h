/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// compute ID group kanmd/tensor FILE TENSOR [ELEMENT|NULL ...] [device auto|cpu|cuda]

#ifdef COMPUTE_CLASS
// clang-format off
ComputeStyle(kanmd/tensor,ComputeKanmdTensor);
// clang-format on
#else

#ifndef LMP_COMPUTE_KANMD_TENSOR_H
#define LMP_COMPUTE_KANMD_TENSOR_H

#include "core/cell_list.h"
#include "core/compiled_model.h"
#include "core/graph.h"
#include "core/tensor_output.h"

#include "compute.h"

#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

// Predicts a tensor of each atom (a per-atom vector or array) or of the structure (a scalar or global
// vector). Stands beside any pair style: it finds its own neighbours among owned atoms and ghosts.
class ComputeKanmdTensor : public Compute {
 public:
  ComputeKanmdTensor(class LAMMPS *, int, char **);
  ~ComputeKanmdTensor() override;

  void init() override;
  void compute_peratom() override;
  void compute_vector() override;
  double compute_scalar() override;
  int pack_forward_comm(int, int *, double *, int, int *) override;
  void unpack_forward_comm(int, int, double *) override;
  double memory_usage() override;

  const kan_md::TensorOutput &tensor() const { return tensor_; }

 private:
  void read_arguments(int narg, char **arg);
  std::vector<std::string> names_by_mass() const;
  void check_masses() const;
  void request_ghosts();
  void check_ghosts() const;
  double cutoff_of_ghosts() const;

  void evaluate();
  void find_images();
  const kan_md::Graph &build_graph();
  void read_rows(const kan_md::Graph &graph);
  void combine_over_atoms();

  std::string style_, file_;
  kan_md::DeviceRequest device_;
  std::unique_ptr<kan_md::CompiledModel> model_;
  std::unique_ptr<kan_md::GraphBuilder> builder_;
  kan_md::TensorOutput tensor_;
  kan_md::TypeTable types_;
  kan_md::CellList cells_;
  std::vector<char> use_;                 // [num_all] whether the model knows the atom's type
  std::vector<int> centres_;              // owned atoms that it knows
  std::vector<std::int64_t> identity_;    // [num_all], see core/same_atoms.h
  std::vector<int> first_image_;          // [num_all]
  std::vector<double> rows_;              // [centres][columns of the tensor]
  std::vector<double> total_;             // [columns], sum or mean over all atoms of all ranks
  int nmax_;
};

}    // namespace LAMMPS_NS

#endif
#endif
