// SHA-256 (FIPS 180-4). Ours, because neither torch nor LAMMPS has one that a library can call.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace kan_md {

// Fed piece by piece, so that a model is never held twice.
class Sha256 {
 public:
  void add(const std::string &bytes);
  std::string hex();

 private:
  void compress();

  // Square roots of the first eight primes (section 5.3.3).
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<char, 64> block_{};
  std::size_t used_ = 0;
  std::uint64_t total_ = 0;
};

}    // namespace kan_md
