#include "inflate.h"

#include "error.h"

#include <array>
#include <cstdint>
#include <vector>

namespace kan_md {

namespace {

Error damaged()
{
  return Error("model file must be a complete compiled model", "a damaged compressed entry", "",
               "copy it again or make it again with kan-md deploy");
}

class BitReader {
 public:
  explicit BitReader(const std::string &bytes) : bytes_(bytes) {}

  // The next `count` bits, the first one lowest (RFC 1951, section 3.1.1).
  unsigned take(int count)
  {
    unsigned value = 0;
    for (int k = 0; k < count; ++k) value |= bit() << k;
    return value;
  }

  unsigned bit()
  {
    if (at_ / 8 >= bytes_.size()) throw damaged();
    const unsigned value = (static_cast<unsigned char>(bytes_[at_ / 8]) >> (at_ % 8)) & 1u;
    ++at_;
    return value;
  }

  void skip_to_byte() { at_ = (at_ + 7) / 8 * 8; }

 private:
  const std::string &bytes_;
  std::size_t at_ = 0;
};

constexpr int MAX_BITS = 15;

// Canonical Huffman code (section 3.2.2): symbols ordered by code length, then by value.
class Huffman {
 public:
  explicit Huffman(const std::vector<int> &lengths)
  {
    for (const int length : lengths) ++count_[length];
    count_[0] = 0;
    std::array<int, MAX_BITS + 2> start{};
    for (int n = 1; n <= MAX_BITS; ++n) start[n + 1] = start[n] + count_[n];
    symbols_.resize(start[MAX_BITS + 1]);
    for (std::size_t symbol = 0; symbol < lengths.size(); ++symbol)
      if (lengths[symbol]) symbols_[start[lengths[symbol]]++] = static_cast<int>(symbol);
  }

  int decode(BitReader &bits) const
  {
    int code = 0, first = 0, index = 0;
    for (int n = 1; n <= MAX_BITS; ++n) {
      code |= static_cast<int>(bits.bit());
      if (code - first < count_[n]) return symbols_[index + code - first];
      index += count_[n];
      first = (first + count_[n]) << 1;
      code <<= 1;
    }
    throw damaged();
  }

 private:
  std::array<int, MAX_BITS + 1> count_{};
  std::vector<int> symbols_;
};

struct Codes {
  Huffman literals, distances;
};

Codes fixed_codes()    // section 3.2.6
{
  std::vector<int> lengths(288, 8);
  for (int k = 144; k < 256; ++k) lengths[k] = 9;
  for (int k = 256; k < 280; ++k) lengths[k] = 7;
  return {Huffman(lengths), Huffman(std::vector<int>(30, 5))};
}

Codes read_codes(BitReader &bits)    // section 3.2.7
{
  constexpr std::array<int, 19> order = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                         11, 4,  12, 3, 13, 2, 14, 1, 15};
  const unsigned literals = bits.take(5) + 257, distances = bits.take(5) + 1;
  const unsigned used = bits.take(4) + 4;
  std::vector<int> lengths(19, 0);
  for (unsigned k = 0; k < used; ++k) lengths[order[k]] = static_cast<int>(bits.take(3));
  const Huffman code(lengths);
  lengths.clear();
  while (lengths.size() < literals + distances) {
    const int symbol = code.decode(bits);
    if (symbol < 16) {
      lengths.push_back(symbol);
    } else {
      if (symbol == 16 && lengths.empty()) throw damaged();
      const int value = symbol == 16 ? lengths.back() : 0;
      const unsigned times = symbol == 16   ? 3 + bits.take(2)
                             : symbol == 17 ? 3 + bits.take(3)
                                            : 11 + bits.take(7);
      lengths.insert(lengths.end(), times, value);
    }
  }
  if (lengths.size() != literals + distances) throw damaged();
  const auto middle = lengths.begin() + literals;
  return {Huffman({lengths.begin(), middle}), Huffman({middle, lengths.end()})};
}

void copy_stored(BitReader &bits, std::string &out)
{
  bits.skip_to_byte();
  const unsigned size = bits.take(16), complement = bits.take(16);
  if ((size ^ 0xffffu) != complement) throw damaged();
  for (unsigned k = 0; k < size; ++k) out += static_cast<char>(bits.take(8));
}

void copy_coded(BitReader &bits, const Codes &codes, std::string &out)
{
  // Bases and extra bits of section 3.2.5.
  constexpr std::array<int, 29> length_base = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                               15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                               67, 83, 99, 115, 131, 163, 195, 227, 258};
  constexpr std::array<int, 29> length_bits = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                               2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
  for (int symbol = codes.literals.decode(bits); symbol != 256;
       symbol = codes.literals.decode(bits)) {
    if (symbol < 256) {
      out += static_cast<char>(symbol);
      continue;
    }
    if (symbol > 285) throw damaged();
    const std::size_t length = length_base[symbol - 257] + bits.take(length_bits[symbol - 257]);
    const int code = codes.distances.decode(bits);
    if (code > 29) throw damaged();
    const int extra = code < 2 ? 0 : code / 2 - 1;
    const std::size_t base = code < 2 ? 1 + code : 1 + (std::size_t{2} + code % 2) * (1u << extra);
    const std::size_t distance = base + bits.take(extra);
    if (distance > out.size()) throw damaged();
    for (std::size_t k = 0; k < length; ++k) out += out[out.size() - distance];
  }
}

}    // namespace

std::string inflate(const std::string &packed, std::size_t size)
{
  BitReader bits(packed);
  std::string out;
  for (bool last = false; !last;) {
    last = bits.bit();
    const unsigned kind = bits.take(2);
    if (kind == 0)
      copy_stored(bits, out);
    else if (kind == 1)
      copy_coded(bits, fixed_codes(), out);
    else if (kind == 2)
      copy_coded(bits, read_codes(bits), out);
    else
      throw damaged();
    if (out.size() > size) throw damaged();
  }
  if (out.size() != size) throw damaged();
  return out;
}

}    // namespace kan_md
