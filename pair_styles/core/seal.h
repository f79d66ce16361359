// The seal of a deployed file: the SHA-256 of everything else in it.

#pragma once

#include "archive.h"

#include <string>

namespace kan_md {

// Throws Error where the file was changed after it was deployed.
void check_seal(const Archive &archive);

// SHA-256 in hexadecimal (FIPS 180-4).
std::string sha256(const std::string &bytes);

}    // namespace kan_md
