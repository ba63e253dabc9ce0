// Draws from a row of logits, as evodraft/sampling.py does: softmax at a temperature, then an exponential race.
//
// A row's result depends on the row alone. This file does not know what the tokens are for.

#pragma once

#include "noise.h"
#include "vectors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace evodraft {

constexpr float kLowestTemperature = 1e-30f;  // as in sampling.py
constexpr float kLowestPower = -87.0f;        // e to it is the least that `exponential` returns, and counts as nothing

// law [count] = softmax(logits / temperature). `largest` is the largest logit, and finite.
inline void write_law(const float* logits, int64_t count, float largest, float temperature, float* law) {
  const float divisor = std::max(temperature, kLowestTemperature);
  Floats sums = {};
  for (int64_t i = 0; i < count; i += kFloats) {
    const int64_t left = std::min(count - i, kFloats);
    const Floats scores = (load_floats(logits + i, left) - largest) / divisor;
    Floats powers = scores > kLowestPower ? exponential(scores) : Floats{};
    for (int64_t lane = left; lane < kFloats; ++lane) powers[lane] = 0.0f;
    sums += powers;
    std::memcpy(law + i, &powers, left * sizeof(float));
  }
  const float sum = total(sums);
  for (int64_t i = 0; i < count; ++i) law[i] /= sum;
}

// Who comes first of E / law, E = -log(1 - u) with the noise u of each token; ties go to the first. `ids` are the
// tokens; null: their numbers.
inline int64_t race(const float* law, int64_t count, const int64_t* ids, uint32_t first_word, uint32_t second_word) {
  int64_t winner = 0;
  float best = INFINITY;
  for (int64_t i = 0; i < count; i += kFloats) {
    const int64_t left = std::min(count - i, kFloats);
    Words tokens = {};
    for (int64_t lane = 0; lane < left; ++lane)
      tokens[lane] = static_cast<uint32_t>(ids == nullptr ? i + lane : ids[i + lane]);
    const Floats noise = uniform(first_word, second_word, tokens);
    // E is never less than u: who is behind already needs no logarithm. Infinity times a law of 0 is NaN, and loses.
    const Floats bounds = load_floats(law + i, left) * best;
    for (int64_t lane = 0; lane < left; ++lane) {
      if (!(noise[lane] <= bounds[lane])) continue;
      const float time = -std::log1p(-noise[lane]) / law[i + lane];
      if (time < best) best = time, winner = i + lane;
    }
  }
  return winner;
}

}  // namespace evodraft
