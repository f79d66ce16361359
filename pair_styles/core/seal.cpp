#include "seal.h"

#include "error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace kan_md {

namespace {

const std::string SEAL_KEY = "kan_md_seal";

bool is_seal(const std::string &name)
{
  const auto slash = name.find_last_of('/');
  return name.substr(slash == std::string::npos ? 0 : slash + 1) == SEAL_KEY;
}

// SHA-256 of FIPS 180-4, fed piece by piece so that a model is never held twice.
class Digest {
 public:
  void add(const std::string &bytes)
  {
    total_ += bytes.size();
    std::size_t at = 0;
    while (at < bytes.size()) {
      const std::size_t take = std::min<std::size_t>(64 - used_, bytes.size() - at);
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), take, block_.begin() + used_);
      used_ += take;
      at += take;
      if (used_ == 64) {
        compress();
        used_ = 0;
      }
    }
  }

  std::string hex()
  {
    const std::uint64_t bits = 8 * total_;
    std::string padding(1, '\x80');
    padding.append((119 - total_ % 64) % 64, '\0');
    for (int shift = 56; shift >= 0; shift -= 8) padding += static_cast<char>(bits >> shift);
    add(padding);
    std::string text;
    for (const std::uint32_t word : state_)
      for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
    return text;
  }

 private:
  // First 32 bits of the fractional parts of the cube roots of the first 64 primes (section 4.2.2).
  static const std::array<std::uint32_t, 64> &constants()
  {
    static const auto values = [] {
      std::array<std::uint32_t, 64> k{};
      int count = 0;
      for (int n = 2; count < 64; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
        if (prime) {
          const long double root = std::cbrt(static_cast<long double>(n));
          k[count++] = static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
        }
      }
      return k;
    }();
    return values;
  }

  static std::uint32_t rotate(std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

  void compress()
  {
    std::array<std::uint32_t, 64> w;
    for (int t = 0; t < 16; ++t) {
      w[t] = 0;
      for (int b = 0; b < 4; ++b)
        w[t] = (w[t] << 8) | static_cast<unsigned char>(block_[4 * t + b]);
    }
    for (int t = 16; t < 64; ++t) {
      const auto s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >> 3);
      const auto s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    auto s = state_;
    const auto &k = constants();
    for (int t = 0; t < 64; ++t) {
      const auto e1 = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
      const auto choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
      const auto t1 = s[7] + e1 + choice + k[t] + w[t];
      const auto e0 = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
      const auto t2 = e0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (int i = 0; i < 8; ++i) state_[i] += s[i];
  }

  // Square roots of the first eight primes (section 5.3.3).
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<char, 64> block_{};
  std::size_t used_ = 0;
  std::uint64_t total_ = 0;
};

}    // namespace

std::string sha256(const std::string &bytes)
{
  Digest digest;
  digest.add(bytes);
  return digest.hex();
}

void check_seal(const Archive &archive)
{
  std::vector<std::string> names = archive.names();
  std::sort(names.begin(), names.end());
  Digest digest;
  std::string found = "none";
  for (const std::string &name : names) {
    const std::string content = archive.read(name);
    if (is_seal(name)) {
      found = content;
      continue;
    }
    digest.add(name + '\0' + std::to_string(content.size()) + '\0');
    digest.add(content);
  }
  const std::string expected = digest.hex();
  if (found != expected)
    throw Error("model file was changed after it was deployed", "seal " + found.substr(0, 12),
                expected.substr(0, 12), "run kan-md deploy again");
}

}    // namespace kan_md
