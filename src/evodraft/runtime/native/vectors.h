// Numbers as this machine holds them: 64 bytes at a time, float32 sums, bfloat16 or float32 storage.
//
// Every result depends on its own operands alone, in an order that is fixed by their number: never on how many tokens
// a pass has. This file does not know layers.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// GCC has it from version 12 on, clang lacks the older one.
#if !defined(EVODRAFT_SHUFFLEVECTOR)
#if defined(__clang__) || __GNUC__ >= 12
#define EVODRAFT_SHUFFLEVECTOR 1
#else
#define EVODRAFT_SHUFFLEVECTOR 0
#endif
#endif

namespace evodraft {

typedef float Floats __attribute__((vector_size(64)));  // 16 numbers
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr int64_t kFloats = 16;
constexpr int64_t kChunkBytes = 64;

struct BFloat16 {
  uint16_t bits;
};

template <class V>
inline V load(const void* from) {
  V vector;
  std::memcpy(&vector, from, sizeof(V));
  return vector;
}

// The first `num_bytes` of a vector, and zeros.
template <class V>
inline V load_part(const void* from, int64_t num_bytes) {
  V vector = {};
  std::memcpy(&vector, from, num_bytes);
  return vector;
}

// Sums of lanes, all by the same tree: i with i + 8, then with i + 4, i + 2, i + 1. Adding is commutative to the bit, so
// a vector's total does not depend on which others are summed beside it.

// Lanes of two vectors by number, those of `right` from 16 on.
template <uint32_t... kLanes>
__attribute__((always_inline)) inline Floats pick(Floats left, Floats right) {
#if EVODRAFT_SHUFFLEVECTOR
  return __builtin_shufflevector(left, right, kLanes...);
#else
  return __builtin_shuffle(left, right, Words{kLanes...});
#endif
}

template <int kGroup>  // lanes of one vector's partial sums, before the call
__attribute__((always_inline)) inline Floats fold(Floats left, Floats right) {
  if constexpr (kGroup == 16)
    return pick<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(left, right) +
           pick<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(left, right);
  else if constexpr (kGroup == 8)
    return pick<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(left, right) +
           pick<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(left, right);
  else if constexpr (kGroup == 4)
    return pick<0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29>(left, right) +
           pick<2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31>(left, right);
  else
    return pick<0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30>(left, right) +
           pick<1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31>(left, right);
}

// Lane i < kCount, a power of two, is the total of vector i. Overwrites the vectors.
template <int kCount, int kGroup = 16>
__attribute__((always_inline)) inline Floats totals(Floats* vectors) {
  if constexpr (kGroup == 1) {
    return vectors[0];
  } else if constexpr (kCount == 1) {
    vectors[0] = fold<kGroup>(vectors[0], vectors[0]);
    return totals<1, kGroup / 2>(vectors);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kCount / 2; ++i) vectors[i] = fold<kGroup>(vectors[2 * i], vectors[2 * i + 1]);
    return totals<kCount / 2, kGroup / 2>(vectors);
  }
}

inline float total(Floats vector) { return totals<1>(&vector)[0]; }

// ---- storage ----------------------------------------------------------------------------------------------------

template <class T>
constexpr int64_t kChunk = kChunkBytes / sizeof(T);  // numbers in 64 bytes

inline Floats widen(Halves halves) {
#if defined(__AVX512F__)  // what the compiler makes of the other line takes five instructions
  return (Floats)(_mm512_cvtepu16_epi32((__m256i)halves) << 16);
#else
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
#endif
}

inline Floats load_floats(const float* from) { return load<Floats>(from); }
inline Floats load_floats(const BFloat16* from) { return widen(load<Halves>(from)); }
inline Floats load_floats(const float* from, int64_t count) { return load_part<Floats>(from, count * 4); }
inline Floats load_floats(const BFloat16* from, int64_t count) { return widen(load_part<Halves>(from, count * 2)); }

inline void store(float* to, float number) { *to = number; }
inline void store(BFloat16* to, float number) {  // to the nearest, ties to even, as torch does
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to->bits = std::isnan(number) ? 0x7FC0 : static_cast<uint16_t>(rounded);
}

// A whole vector to `to`, as `store` stores its numbers.
inline void store_all(float* to, Floats numbers) { std::memcpy(to, &numbers, sizeof(numbers)); }
inline void store_all(BFloat16* to, Floats numbers) {
  const Words bits = (Words)numbers;
  const Words rounded = numbers == numbers ? (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 : Words{} + 0x7FC0;
  const Halves halves = __builtin_convertvector(rounded, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

// ---- 64 bytes of weights times 64 bytes of a token --------------------------------------------------------------

template <class T>
inline Floats multiply_add(Floats sum, Words weights, Words token);

template <>
inline Floats multiply_add<float>(Floats sum, Words weights, Words token) {
  return sum + (Floats)weights * (Floats)token;
}

template <>
inline Floats multiply_add<BFloat16>(Floats sum, Words weights, Words token) {
#if defined(__AVX512BF16__)
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)token);
#else
  sum += (Floats)(weights << 16) * (Floats)(token << 16);
  return sum + (Floats)(weights & 0xFFFF0000u) * (Floats)(token & 0xFFFF0000u);
#endif
}

// e^x, with an error of a few units in the last place; NaN stays NaN.
inline Floats exponential(Floats x) {
  const Floats kShift = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x < -87.0f ? Floats{} - 87.0f : x;
  x = x > 88.0f ? Floats{} + 88.0f : x;
  const Floats shifted = x * 1.44269504f + kShift;
  const Floats exponent = shifted - kShift;
  const Floats rest = (x - exponent * 0.693359375f) + exponent * 2.12194440e-4f;
  Floats power = Floats{} + 1.9875691500e-4f;
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * rest * rest + rest + 1.0f;
  return power * (Floats)(((Words)shifted + 127) << 23);
}

}  // namespace evodraft
