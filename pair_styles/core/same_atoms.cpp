#include "same_atoms.h"

#include <unordered_map>

namespace kan_md {

std::int64_t identity_of(int rank, int index)
{
  return static_cast<std::int64_t>(rank) << 32 | index;
}

int rank_of(std::int64_t identity)
{
  return static_cast<int>(identity >> 32);
}

int index_of(std::int64_t identity)
{
  return static_cast<int>(identity & 0xffffffff);
}

void find_same_atoms(const std::vector<std::int64_t> &identities, std::vector<int> &first)
{
  const int count = static_cast<int>(identities.size());
  first.resize(count);
  std::unordered_map<std::int64_t, int> known;
  known.reserve(count);
  for (int i = 0; i < count; ++i) first[i] = known.try_emplace(identities[i], i).first->second;
}

}    // namespace kan_md
