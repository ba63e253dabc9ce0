// Attention of new tokens over the keys and values of their own slot, and rotary positions.
//
// A token reads exactly what lies before it on its own path: nothing is masked, so nothing that other tokens hold (or
// leave behind) can reach it. The order of every sum is the order of positions. This file does not know weights.

#pragma once

#include <new>
#include <vector>

#include "linear.h"

namespace evodraft {

struct Heads {
  int64_t num_heads, num_kv_heads, head_dim, rotary_dim;
  float scaling;
  int64_t group() const { return num_heads / num_kv_heads; }
};

// Turns the first rotary_dim numbers of a head to its position: halves, as in GPT-NeoX and Llama.
inline void rotate(float* head, const float* cosines, const float* sines, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cosines[i] - second * sines[i];
    head[i + half] = second * cosines[i] + first * sines[i];
  }
}

// Where the keys (or values) of one head of one slot lie: position p < start in column p, later ones along a path.
template <class T>
struct Past {
  const T* numbers;  // [columns, head_dim]
  int64_t head_dim;
  int64_t start;
  const int64_t* path;  // node of each position from `start` on; node n lies in column start + n
  const T* at(int64_t position) const {
    return numbers + (position < start ? position : start + path[position - start]) * head_dim;
  }
};

// Sixteen keys times one query.
template <class T>
Floats score_vector(const T* const* rows, int64_t head_dim, const T* query) {
  Floats sums[kFloats] = {};
  int64_t column = 0;
  for (; column + kChunk<T> <= head_dim; column += kChunk<T>) {
    const Words numbers = load<Words>(query + column);
#pragma GCC unroll 16
    for (int64_t key = 0; key < kFloats; ++key)
      sums[key] = multiply_add<T>(sums[key], load<Words>(rows[key] + column), numbers);
  }
  if (column < head_dim) {
    const Words numbers = load<Words>(query + column);
#pragma GCC unroll 16
    for (int64_t key = 0; key < kFloats; ++key)
      sums[key] = multiply_add<T>(sums[key], load_part<Words>(rows[key] + column, (head_dim - column) * sizeof(T)),
                                  numbers);
  }
  return totals<kFloats>(sums);
}

constexpr int64_t kKeysAhead = 32;

// Slots are too short for the processor to see that they are read in order.
template <class T>
inline void fetch_ahead(const T* row, int64_t head_dim) {
  const char* place = reinterpret_cast<const char*>(row + kKeysAhead * head_dim);
  for (int64_t byte = 0; byte < head_dim * static_cast<int64_t>(sizeof(T)); byte += 64)
    __builtin_prefetch(place + byte, 0, 3);
}

// scores[query][position - first], for sixteen keys at a time; queries are padded with zeros to whole chunks. Behind
// `count`, up to whole vectors of scores, stands anything.
template <class T>
void score_keys(const Past<T>& keys, int64_t first, int64_t count, const T* queries, int64_t stride,
                int64_t num_queries, float* scores, int64_t scores_stride) {
  for (int64_t i = 0; i < count; i += kFloats) {
    const T* rows[kFloats];
    for (int64_t key = 0; key < kFloats; ++key) rows[key] = keys.at(first + (i + key < count ? i + key : i));
    for (int64_t key = 0; key < kFloats; ++key) fetch_ahead(rows[key], keys.head_dim);
    for (int64_t query = 0; query < num_queries; ++query) {
      const Floats found = score_vector(rows, keys.head_dim, queries + query * stride);
      std::memcpy(scores + query * scores_stride + i, &found, sizeof(found));
    }
  }
}

// Scores to weights that sum to 1; what lies behind `count` up to the stride becomes zero.
inline void softmax(float* scores, int64_t count, float scaling) {
  const int64_t end = (count + kFloats - 1) / kFloats * kFloats;
  for (int64_t i = count; i < end; ++i) scores[i] = scores[0];
  Floats best = load<Floats>(scores);
  for (int64_t i = kFloats; i < end; i += kFloats) {
    const Floats others = load<Floats>(scores + i);
    best = others > best ? others : best;
  }
  float largest = best[0];
  for (int64_t lane = 1; lane < kFloats; ++lane) largest = best[lane] > largest ? best[lane] : largest;
  Floats sums = {};
  for (int64_t i = 0; i < end; i += kFloats) {
    Floats powers = exponential((load<Floats>(scores + i) - largest) * scaling);
    for (int64_t lane = count - i; lane < kFloats; ++lane) powers[lane] = 0.0f;
    std::memcpy(scores + i, &powers, sizeof(powers));
    sums += powers;
  }
  const float inverse = 1.0f / total(sums);
  for (int64_t i = 0; i < count; ++i) scores[i] *= inverse;
}

// Adds to sums [kQueries][kChunks] what one position holds; `left` numbers of it are there if it is no whole chunk.
template <class T, int kQueries, int kChunks, bool kIsWhole>
__attribute__((always_inline)) inline void mix_one(const T* value, int64_t left, const float* weights, int64_t stride,
                                                   Floats* sums) {
#pragma GCC unroll 4
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const Floats numbers = kIsWhole ? load_floats(value + chunk * kFloats) : load_floats(value, left);
#pragma GCC unroll 4
    for (int query = 0; query < kQueries; ++query)
      sums[query * kChunks + chunk] += weights[query * stride] * numbers;
  }
}

// mixed[query][d] for kChunks * 16 numbers of kQueries heads from `d` on.
template <class T, int kQueries, int kChunks, bool kIsWhole>
void mix_part(const Past<T>& values, int64_t first, int64_t count, const float* weights, int64_t weights_stride,
              int64_t d, float* mixed, int64_t stride) {
  Floats sums[kQueries * kChunks] = {};
  const int64_t left = values.head_dim - d, end = first + count;
  int64_t position = first;
  for (; position < end && position < values.start; ++position, ++weights)
    mix_one<T, kQueries, kChunks, kIsWhole>(values.numbers + position * values.head_dim + d, left, weights,
                                            weights_stride, sums);
  for (; position < end; ++position, ++weights)
    mix_one<T, kQueries, kChunks, kIsWhole>(values.at(position) + d, left, weights, weights_stride, sums);
  for (int query = 0; query < kQueries; ++query)
    std::memcpy(mixed + query * stride + d, sums + query * kChunks, kChunks * sizeof(Floats));
}

template <class T, int kQueries>
void mix_values(const Past<T>& values, int64_t first, int64_t count, const float* weights, int64_t weights_stride,
                float* mixed, int64_t stride) {
  int64_t d = 0;
  for (; d + 4 * kFloats <= values.head_dim; d += 4 * kFloats)
    mix_part<T, kQueries, 4, true>(values, first, count, weights, weights_stride, d, mixed, stride);
  for (; d + kFloats <= values.head_dim; d += kFloats)
    mix_part<T, kQueries, 1, true>(values, first, count, weights, weights_stride, d, mixed, stride);
  if (d < values.head_dim)
    mix_part<T, kQueries, 1, false>(values, first, count, weights, weights_stride, d, mixed, stride);
}

inline int64_t scores_stride_of(int64_t count) { return (count + kFloats - 1) / kFloats * kFloats; }

// Memory of one thread for one token's attention to one head of keys.
template <class T>
struct AttentionScratch {
  std::vector<T> queries;
  std::vector<float> scores, mixed;
  // Whether there is enough for attention to `longest` positions; later, nothing is allocated.
  bool reserve(const Heads& heads, int64_t longest) try {
    queries.reserve(heads.group() * padded(heads.head_dim));
    mixed.reserve(heads.group() * padded(heads.head_dim));
    scores.reserve(heads.group() * scores_stride_of(longest));
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
};

// The query heads of one token that share a key head: queries [group, head_dim] -> output [group, head_dim].
template <class T>
void attend(const Heads& heads, const Past<T>& keys, const Past<T>& values, int64_t first, int64_t end,
            const float* queries, T* output, AttentionScratch<T>& scratch) {
  const int64_t dim = heads.head_dim, group = heads.group(), count = end - first;
  const int64_t stride = padded(dim), scores_stride = scores_stride_of(count);
  scratch.queries.assign(group * stride, T{});
  scratch.scores.resize(group * scores_stride);
  scratch.mixed.resize(group * stride);
  float *scores = scratch.scores.data(), *mixed = scratch.mixed.data();
  for (int64_t query = 0; query < group; ++query)
    for (int64_t d = 0; d < dim; ++d) store(&scratch.queries[query * stride + d], queries[query * dim + d]);
  score_keys(keys, first, count, scratch.queries.data(), stride, group, scores, scores_stride);
  for (int64_t query = 0; query < group; ++query) softmax(scores + query * scores_stride, count, heads.scaling);
  int64_t query = 0;
  for (; query + 4 <= group; query += 4)
    mix_values<T, 4>(values, first, count, scores + query * scores_stride, scores_stride, mixed + query * stride,
                     stride);
  for (; query + 2 <= group; query += 2)
    mix_values<T, 2>(values, first, count, scores + query * scores_stride, scores_stride, mixed + query * stride,
                     stride);
  for (; query < group; ++query)
    mix_values<T, 1>(values, first, count, scores + query * scores_stride, scores_stride, mixed + query * stride,
                     stride);
  for (query = 0; query < group; ++query)
    for (int64_t d = 0; d < dim; ++d) store(output + query * dim + d, mixed[query * stride + d]);
}

}  // namespace evodraft
