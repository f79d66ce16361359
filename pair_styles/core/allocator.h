// Makes glibc keep large blocks instead of returning them to the kernel after every operator.

#pragma once

namespace kan_md {

// Raises malloc's thresholds for this process, unless the environment says KAN_MD_MALLOC=system.
// Returns whether it did. Models allocate the same large blocks at every step; returning them costs
// a page fault per 4 KiB at the next.
bool tune_allocator();

}    // namespace kan_md
