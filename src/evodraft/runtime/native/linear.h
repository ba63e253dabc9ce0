// Matrix products that read every weight from memory once. Called by all threads of a parallel region.
//
// A result is the sum of one row's products with one token, always in the same order, so it does not depend on the
// other tokens of the pass. This file does not know what is multiplied.

#pragma once

#include "vectors.h"

namespace evodraft {

struct Matrix {
  const void* weight;  // [rows, columns]
  const float* bias;   // [rows], or null
  int64_t rows, columns;
};

constexpr int64_t kTileRows = 4, kTileTokens = 6;
constexpr int64_t kMostResults = (kTileRows * kTileTokens + kFloats - 1) / kFloats * kFloats;

// Tokens of each tile but perhaps the last: as few tiles as there can be, of about one size.
inline int64_t tile_tokens(int64_t num_tokens) {
  const int64_t num_tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
  return num_tiles == 0 ? 1 : (num_tokens + num_tiles - 1) / num_tiles;
}

inline int64_t padded(int64_t columns) { return (columns + 31) / 32 * 32; }

constexpr int64_t kAheadBytes = 4096;

// Unrolled by hand of the compiler, or it would keep the sums in memory.
template <class T, int kRows, int kTokens>
__attribute__((always_inline)) inline void add_products(Floats* sums, const Words* weights, const T* tokens,
                                                        int64_t stride) {
#pragma GCC unroll 6
  for (int token = 0; token < kTokens; ++token) {
    const Words numbers = load<Words>(tokens + token * stride);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row)
      sums[token * kRows + row] = multiply_add<T>(sums[token * kRows + row], weights[row], numbers);
  }
}

// Keeps a vector in a register, where the compiler would read it from memory once more for every token.
__attribute__((always_inline)) inline void keep(Words& vector) {
#if defined(__AVX512F__)
  asm("" : "+v"(vector));
#else
  (void)vector;
#endif
}

// Totals of `kSums` vectors, sixteen at a time, and zeros.
template <int kSums>
__attribute__((always_inline)) inline void store_totals(Floats* sums, float* results) {
  if constexpr (kSums > 16) {
    store_totals<16>(sums, results);
    store_totals<kSums - 16>(sums + 16, results + 16);
  } else {
    constexpr int kPower = kSums <= 1 ? 1 : kSums <= 2 ? 2 : kSums <= 4 ? 4 : kSums <= 8 ? 8 : 16;
    const Floats lanes = totals<kPower>(sums);
    std::memcpy(results, &lanes, sizeof(lanes));
  }
}

// Results [kTokens][kRows], and anything up to kMostResults; tokens are padded with zeros to whole chunks. What follows
// the rows in memory is fetched ahead where the rows of the next tile follow there.
template <class T, int kRows, int kTokens, bool kFetchesAhead>
void multiply_tile(const T* const* rows, int64_t columns, const T* tokens, int64_t stride, float* results) {
  Floats sums[kMostResults] = {};  // [kTokens][kRows], and zeros
  int64_t column = 0;
  for (; column + kChunk<T> <= columns; column += kChunk<T>) {
    Words weights[kRows];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      weights[row] = load<Words>(rows[row] + column);
      keep(weights[row]);
    }
    if constexpr (kFetchesAhead)
      for (int row = 0; row < kRows; ++row)
        __builtin_prefetch(reinterpret_cast<const char*>(rows[row] + column) + kAheadBytes, 0, 2);
    add_products<T, kRows, kTokens>(sums, weights, tokens + column, stride);
  }
  if (column < columns) {
    Words weights[kRows];
    for (int row = 0; row < kRows; ++row)
      weights[row] = load_part<Words>(rows[row] + column, (columns - column) * sizeof(T));
    add_products<T, kRows, kTokens>(sums, weights, tokens + column, stride);
  }
  store_totals<kRows * kTokens>(sums, results);
}

template <class T, int kRows, bool kFetchesAhead>
void multiply_rows(const T* const* rows, int64_t columns, const T* tokens, int64_t stride, int64_t count,
                   float* results) {
  switch (count) {
    case 1: return multiply_tile<T, kRows, 1, kFetchesAhead>(rows, columns, tokens, stride, results);
    case 2: return multiply_tile<T, kRows, 2, kFetchesAhead>(rows, columns, tokens, stride, results);
    case 3: return multiply_tile<T, kRows, 3, kFetchesAhead>(rows, columns, tokens, stride, results);
    case 4: return multiply_tile<T, kRows, 4, kFetchesAhead>(rows, columns, tokens, stride, results);
    case 5: return multiply_tile<T, kRows, 5, kFetchesAhead>(rows, columns, tokens, stride, results);
    default: return multiply_tile<T, kRows, 6, kFetchesAhead>(rows, columns, tokens, stride, results);
  }
}

// Up to four rows times up to six tokens: results [count][num_rows].
template <class T, bool kFetchesAhead>
void multiply(const T* const* rows, int64_t num_rows, int64_t columns, const T* tokens, int64_t stride, int64_t count,
              float* results) {
  switch (num_rows) {
    case 1: return multiply_rows<T, 1, kFetchesAhead>(rows, columns, tokens, stride, count, results);
    case 2: return multiply_rows<T, 2, kFetchesAhead>(rows, columns, tokens, stride, count, results);
    case 3: return multiply_rows<T, 3, kFetchesAhead>(rows, columns, tokens, stride, count, results);
    default: return multiply_rows<T, 4, kFetchesAhead>(rows, columns, tokens, stride, count, results);
  }
}

// Up to four rows of a matrix, a quarter of it apart: as tiles go on, memory is read in four long streams, of which the
// processor fetches ahead. Neighbouring rows would be four short ones (slower by a fifth on an EPYC, Zen 4).
struct Rows {
  int64_t first, distance, count;
  int64_t at(int64_t i) const { return first + i * distance; }
};

// A tile of results: `rows` for tokens first_token .. first_token + num_tokens - 1.
struct Tile {
  Rows rows;
  int64_t first_token, num_tokens;
  const float* results;  // [num_tokens][rows.count]
  float at(int64_t token, int64_t i) const { return results[token * rows.count + i]; }
};

// Rows of the matrix times tokens, with its bias.
template <class T>
void multiply(const Matrix& matrix, const Rows& rows, const T* tokens, int64_t stride, int64_t count,
              bool is_first_use, float* results) {
  const T* weight = static_cast<const T*>(matrix.weight);
  const T* places[kTileRows];
  for (int64_t i = 0; i < kTileRows; ++i) places[i] = weight + rows.at(i < rows.count ? i : 0) * matrix.columns;
  const auto run = is_first_use ? multiply<T, true> : multiply<T, false>;
  run(places, rows.count, matrix.columns, tokens, stride, count, results);
  if (matrix.bias == nullptr) return;
  for (int64_t token = 0; token < count; ++token)
    for (int64_t i = 0; i < rows.count; ++i) results[token * rows.count + i] += matrix.bias[rows.at(i)];
}

// Calls `visit(rows)` for this thread's share of the rows; no barrier at the end.
template <class Visit>
void share_rows(int64_t num_rows, Visit visit) {
  const int64_t quarter = (num_rows + kTileRows - 1) / kTileRows;
#pragma omp for schedule(static) nowait
  for (int64_t first = 0; first < quarter; ++first)
    visit(Rows{first, quarter, (num_rows - first + quarter - 1) / quarter});
}

// tokens [num_tokens, stride] times the matrix; `use(tile)` gets the results. No barrier at the end.
template <class T, class Use>
void linear(const Matrix& matrix, const T* tokens, int64_t stride, int64_t num_tokens, Use use) {
  const int64_t most = tile_tokens(num_tokens);
  share_rows(matrix.rows, [&](const Rows& rows) {
    for (int64_t first = 0; first < num_tokens; first += most) {
      const int64_t count = num_tokens - first < most ? num_tokens - first : most;
      float results[kMostResults];
      multiply<T>(matrix, rows, tokens + first * stride, stride, count, first <= most, results);
      use(Tile{rows, first, count, results});
    }
  });
}

}  // namespace evodraft
