// The seal of a deployed file: the SHA-256 of everything else in it.

#pragma once

#include "archive.h"

namespace kan_md {

// Throws Error where the file was changed after it was deployed.
void check_seal(const Archive &archive);

}    // namespace kan_md
