// The compiled runtime: layers over a few new tokens and drafts that go on from them, on the model's own weights.
//
// One parallel region per call. This file does not know slots' lengths, sampling or Python.

#include "chain.h"
#include "layers.h"
#include "linear.h"
#include "noise.h"

#include <new>
#include <vector>

namespace evodraft {
namespace {

template <class T>
int64_t run_layers(const Model& model, const Pass& whole, float* hidden, int64_t first, int64_t last) try {
  const Paths paths(whole);
  const Pass pass = computed(whole);
  Workspace<T> space(model, pass.num_tokens);
  int64_t is_short = 0;  // no exception may leave a parallel region
#pragma omp parallel num_threads(pass.num_threads)
  {
    AttentionScratch<T> scratch;
    if (!scratch.reserve(model.heads, paths.longest())) {
#pragma omp atomic write
      is_short = 1;
    }
#pragma omp barrier
    for (int64_t index = first; index < last && !is_short; ++index)
      LayerRun<T>(model, pass, paths, space, scratch, hidden, index)();
  }
  return is_short;
} catch (const std::bad_alloc&) {
  return 1;
}

template <class T>
int64_t run_chain(const Model& model, const Pass& pass, const Chain& chain) try {
  return ChainRun<T>(model, pass, chain)();
} catch (const std::bad_alloc&) {
  return 1;
}

void run_norm(const float* weight, float epsilon, const float* tokens, int64_t num_tokens, int64_t size,
              float* results) {
  for (int64_t token = 0; token < num_tokens; ++token)
    normalise(tokens + token * size, weight, size, epsilon, results + token * size);
}

template <class T>
int64_t run_linear(const Matrix& matrix, const float* tokens, int64_t num_tokens, float* results,
                   int64_t num_threads) try {
  const int64_t stride = padded(matrix.columns);
  std::vector<T> inputs(num_tokens * stride);
  for (int64_t token = 0; token < num_tokens; ++token)
    for (int64_t i = 0; i < matrix.columns; ++i) store(&inputs[token * stride + i], tokens[token * matrix.columns + i]);
#pragma omp parallel num_threads(num_threads)
  linear(matrix, inputs.data(), stride, num_tokens, Copy{results, matrix.rows});
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // namespace
}  // namespace evodraft

#define EVODRAFT_EXPORT __attribute__((visibility("default")))

extern "C" {

// Bytes of the structures, for whoever declares them in another language.
EVODRAFT_EXPORT extern const int64_t evodraft_sizes[];
const int64_t evodraft_sizes[] = {sizeof(evodraft::Matrix), sizeof(evodraft::Layer), sizeof(evodraft::Model),
                                  sizeof(evodraft::Pass), sizeof(evodraft::Chain)};

// hidden [computed tokens, hidden] is what comes before layer `first`, and becomes what comes behind layer `last` - 1.
// Returns 0, or 1 if memory ran out before anything was written.
EVODRAFT_EXPORT int64_t evodraft_layers(const evodraft::Model* model, const evodraft::Pass* pass, float* hidden, int64_t first,
                        int64_t last) {
  const auto run = model->is_bfloat16 ? evodraft::run_layers<evodraft::BFloat16> : evodraft::run_layers<float>;
  return run(*model, *pass, hidden, first, last);
}

// A pass of a model of one layer with two inputs, and the drafts that go on from it. Returns as above.
EVODRAFT_EXPORT int64_t evodraft_chain(const evodraft::Model* model, const evodraft::Pass* pass,
                                       const evodraft::Chain* chain) {
  const auto run = model->is_bfloat16 ? evodraft::run_chain<evodraft::BFloat16> : evodraft::run_chain<float>;
  return run(*model, *pass, *chain);
}

// The root mean square norm of tokens [num_tokens, size] with weight [size]: results, of the same shape.
EVODRAFT_EXPORT void evodraft_norm(const float* weight, float epsilon, const float* tokens, int64_t num_tokens,
                                   int64_t size, float* results) {
  evodraft::run_norm(weight, epsilon, tokens, num_tokens, size, results);
}

// results [num_keys, num_ids] between 0 and 1 for the words of each key [num_keys, 2].
EVODRAFT_EXPORT void evodraft_uniform(const uint32_t* words, int64_t num_keys, const uint32_t* ids, int64_t num_ids,
                                      float* results) {
  for (int64_t key = 0; key < num_keys; ++key)
    for (int64_t i = 0; i < num_ids; ++i)
      results[key * num_ids + i] = evodraft::uniform(words[2 * key], words[2 * key + 1], ids[i]);
}

// tokens [num_tokens, columns] times the matrix: results [num_tokens, rows]. Returns as above.
EVODRAFT_EXPORT int64_t evodraft_linear(const evodraft::Matrix* matrix, const float* tokens, int64_t num_tokens, float* results,
                        int64_t num_threads, int64_t is_bfloat16) {
  const auto run = is_bfloat16 ? evodraft::run_linear<evodraft::BFloat16> : evodraft::run_linear<float>;
  return run(*matrix, tokens, num_tokens, results, num_threads);
}
}
