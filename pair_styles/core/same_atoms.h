// Which of LAMMPS' atoms are the same atom: an owned one and its ghosts, or several ghosts.

#pragma once

#include <cstdint>
#include <vector>

namespace kan_md {

// Name of an atom that every rank can give without atom IDs: who owns it, and its index there.
// Ghosts learn it from the communication that made them.
std::int64_t identity_of(int rank, int index);
int rank_of(std::int64_t identity);
int index_of(std::int64_t identity);

// For each atom the first one with the same identity. Owned atoms stand before ghosts, so they are
// their own.
void find_same_atoms(const std::vector<std::int64_t> &identities, std::vector<int> &first);

}    // namespace kan_md
