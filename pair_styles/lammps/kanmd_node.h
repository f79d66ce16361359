/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// The ranks that share a machine.

#ifndef LMP_KANMD_NODE_H
#define LMP_KANMD_NODE_H

#include <mpi.h>

namespace LAMMPS_NS {

// Made and left by all ranks of `world` together.
class KanmdNode {
 public:
  explicit KanmdNode(MPI_Comm world)
  {
    MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &comm_);
  }
  ~KanmdNode() { MPI_Comm_free(&comm_); }
  KanmdNode(const KanmdNode &) = delete;
  KanmdNode &operator=(const KanmdNode &) = delete;

  // Of this rank among those of the machine.
  int rank() const
  {
    int rank = 0;
    MPI_Comm_rank(comm_, &rank);
    return rank;
  }

  // Sum of each of N values over the ranks of the machine.
  template <int N> void sum(const double (&mine)[N], double (&all)[N]) const
  {
    MPI_Allreduce(mine, all, N, MPI_DOUBLE, MPI_SUM, comm_);
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}    // namespace LAMMPS_NS

#endif
