/* ----------------------------------------------------------------------
   kan-md: machine-learned potentials in LAMMPS
   This file is distributed under the GNU General Public License, version 2 or later.
------------------------------------------------------------------------- */

// A pair style's communication of some numbers per atom, for several versions of LAMMPS.

#ifndef LMP_KANMD_COMM_H
#define LMP_KANMD_COMM_H

#include "comm.h"
#include "pair.h"

namespace LAMMPS_NS {

// Whether a call says how many numbers an atom has. Before 22 Jul 2025 they were as many as comm_forward,
// comm_reverse and comm_reverse_off of the style at most, by which LAMMPS sized its buffers at the start.
template <typename Communication = Comm>
constexpr bool COMM_TAKES_WIDTH = requires(Communication & comm, Pair *pair)
{
  comm.reverse_comm(pair, 1);
};

template <typename Communication>
void send_to_ghosts(Communication *comm, Pair *pair, [[maybe_unused]] int width)
{
  if constexpr (COMM_TAKES_WIDTH<Communication>)
    comm->forward_comm(pair, width);
  else
    comm->forward_comm(pair);
}

template <typename Communication>
void send_to_owners(Communication *comm, Pair *pair, [[maybe_unused]] int width)
{
  if constexpr (COMM_TAKES_WIDTH<Communication>)
    comm->reverse_comm(pair, width);
  else
    comm->reverse_comm(pair);
}

}    // namespace LAMMPS_NS

#endif
