// One cache line of channels, computed with whatever vectors the machine has.
//
// Every kernel works on blocks of 64 bytes (16 float or 8 double channels). The block is a property
// of the stored tables, so a file does not depend on the instruction set of the machine that wrote
// it; the vectors inside a block are the widest that this translation unit was compiled for.

#ifndef KAN_MD_OPS_SIMD_H
#define KAN_MD_OPS_SIMD_H

#include <cstdint>
#include <cstring>

// For what the loops over points call. There are so many of those loops that the compiler's budget for
// inlining runs out, and vectors would go through memory.
#define KAN_MD_INLINE __attribute__((always_inline)) inline

namespace kan_md::ops {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kBlockBytes = 64;

template <typename T> struct Simd {
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(T));
  static constexpr int kVecs = kBlock / kLanes;
};

template <typename T> using Vec = typename Simd<T>::Vec;

// Unaligned on purpose: tensors that were read from a file may start anywhere.
template <typename T> inline Vec<T> load(const T *p)
{
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename T> inline void store(T *p, Vec<T> v)
{
  std::memcpy(p, &v, sizeof(v));
}

template <typename T, int Lanes> struct LaneSum {
  typedef T Lane __attribute__((vector_size(Lanes * sizeof(T))));
  static T of(Lane v)
  {
    typename LaneSum<T, Lanes / 2>::Lane half[2];
    std::memcpy(half, &v, sizeof(v));
    return LaneSum<T, Lanes / 2>::of(half[0] + half[1]);
  }
};

template <typename T> struct LaneSum<T, 2> {
  typedef T Lane __attribute__((vector_size(2 * sizeof(T))));
  static T of(Lane v) { return v[0] + v[1]; }
};

// Sum over the lanes of a vector, by halves.
template <typename T> inline T sum(Vec<T> v)
{
  return LaneSum<T, Simd<T>::kLanes>::of(v);
}

inline int64_t blocks(int64_t channels, int64_t block)
{
  return (channels + block - 1) / block;
}

}    // namespace kan_md::ops

#endif
