// Uniform numbers from a hash of a key and a token id, bit for bit those of evodraft/sampling.py.
//
// Every step is exact or rounded once, so that no compiler can make them differ. This file does not know what is drawn.

#pragma once

#include "vectors.h"

#include <cstdint>

namespace evodraft {

typedef int32_t Integers __attribute__((vector_size(64)));

constexpr float kLargestUniform = 1.0f - 0x1p-24f;

template <class Word>  // or 16 of them
inline Word mix(Word word) {  // lowbias32 of C. Wellons
  word ^= word >> 16;
  word *= 0x7FEB352Du;
  word ^= word >> 15;
  word *= 0x846CA68Bu;
  return word ^ word >> 16;
}

inline float uniform(uint32_t first_word, uint32_t second_word, uint32_t token_id) {
  const uint32_t hashed = mix(mix(token_id + first_word) ^ second_word);
  const float high = static_cast<float>(static_cast<int32_t>(hashed >> 8)) * 0x1p-24f;
  const float number = high + (static_cast<float>(static_cast<int32_t>(hashed & 0xFF)) + 0.5f) * 0x1p-32f;
  return number < kLargestUniform ? number : kLargestUniform;
}

inline Floats uniform(uint32_t first_word, uint32_t second_word, Words token_ids) {
  const Words hashed = mix(mix(token_ids + first_word) ^ second_word);
  const Floats high = __builtin_convertvector((Integers)(hashed >> 8), Floats) * 0x1p-24f;
  const Floats low = __builtin_convertvector((Integers)(hashed & 0xFF), Floats) + 0.5f;
  const Floats numbers = high + low * 0x1p-32f;
  return numbers < kLargestUniform ? numbers : Floats{} + kLargestUniform;
}

}  // namespace evodraft
