// How much memory this process holds and this machine has left.

#pragma once

#include <cstdint>

namespace kan_md {

std::int64_t resident_bytes();     // 0 where the system does not say
std::int64_t available_bytes();    // 0 where the system does not say

}    // namespace kan_md
