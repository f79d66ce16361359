// Decompression of the deflate format (RFC 1951), in which torch stores a model's code.

#pragma once

#include <cstddef>
#include <string>

namespace kan_md {

// Throws Error where `packed` is not a deflate stream of exactly `size` bytes.
std::string inflate(const std::string &packed, std::size_t size);

}    // namespace kan_md
