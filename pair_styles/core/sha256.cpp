#include "sha256.h"

#include <algorithm>
#include <cmath>

namespace kan_md {

namespace {

// First 32 bits of the fractional parts of the cube roots of the first 64 primes (section 4.2.2).
const std::array<std::uint32_t, 64> &constants()
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

std::uint32_t rotate(std::uint32_t x, int n)
{
  return (x >> n) | (x << (32 - n));
}

}    // namespace

void Sha256::add(const std::string &bytes)
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

std::string Sha256::hex()
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

void Sha256::compress()
{
  std::array<std::uint32_t, 64> w;
  for (int t = 0; t < 16; ++t) {
    w[t] = 0;
    for (int b = 0; b < 4; ++b) w[t] = (w[t] << 8) | static_cast<unsigned char>(block_[4 * t + b]);
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

}    // namespace kan_md
