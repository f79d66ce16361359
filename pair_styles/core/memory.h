// How much memory this process holds and may still take.

#pragma once

#include <cstdint>
#include <string>

namespace kan_md {

// Of this process; 0 where the system does not say.
std::int64_t resident_bytes();

// What all processes of this machine may still take together: what is free, and no more than the
// control groups allow that this process is in (containers, batch systems); 0 where the system does
// not say. root: where the system's files are.
std::int64_t available_bytes(const std::string &root = "");

}    // namespace kan_md
