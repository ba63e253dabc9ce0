// Decoder layers of Llama-like models over a few new tokens: what they are made of, and one of them run.
//
// Sums and the residual stream are float32; inputs of matrix products, keys and values have the type of the weights.
// This file does not know who calls it in which order, slots' lengths, sampling or Python.

#pragma once

#include "attention.h"
#include "linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace evodraft {

struct Layer {
  Matrix query, key, value, output, gate, up, down;
  const float *attention_norm, *mlp_norm;          // before attention and MLP, or null
  const float *attention_out_norm, *mlp_out_norm;  // on what they return, or null
  const float *query_norm, *key_norm;              // or null
  const float* beside_norm;                        // of a second input that attention reads too, or null
  int64_t query_norm_size, key_norm_size;          // head_dim, or all heads together
  int64_t window;                                  // 0: none
  int64_t is_residual_normed;                      // what attention reads of the states is added to, not the states
};

struct Model {
  const Layer* layers;
  Heads heads;
  int64_t hidden, intermediate;
  float norm_epsilon;
  int64_t is_bfloat16;  // else float32
};

// What is new: one entry per token. A token's path goes through its parents to the slot's text before `start`.
struct Pass {
  int64_t num_tokens;
  int64_t num_known;  // of them, the first ones: their keys and values are there, and nothing is computed for them
  const int64_t *slots, *starts, *nodes;  // node n of a row is written to column start + n
  const int64_t* parents;                 // index of another token of the pass, or -1
  const float *cosines, *sines;           // [positions, rotary_dim / 2]
  void* const* keys;                      // per layer [slots, kv_heads, columns, head_dim]
  void* const* values;
  const int64_t* columns;  // per layer
  float* const* taps;      // per layer: where to copy the hidden states behind it, or null
  const float* beside;     // second input [computed tokens, hidden] of layers that have one
  int64_t num_threads;
};

// The nodes on each token's way from the slot's text to itself.
class Paths {
 public:
  explicit Paths(const Pass& pass)
      : branches_(pass.num_tokens), depths_(pass.num_tokens), first_(pass.num_known) {
    for (int64_t token = 0; token < pass.num_tokens; ++token) {
      const int64_t parent = pass.parents[token];
      depths_[token] = parent < 0 ? 0 : depths_[parent] + 1;
      line_.push_back(token);
      longest_ = std::max(longest_, pass.starts[token] + depths_[token] + 1);
      if (depths_[token] == pass.nodes[token]) continue;  // then all nodes before it are on its path
      branches_[token].assign(way_to(parent), way_to(parent) + depths_[token]);
      branches_[token].push_back(pass.nodes[token]);
    }
  }
  // Tokens are counted from the first that is computed.
  int64_t depth(int64_t token) const { return depths_[first_ + token]; }
  const int64_t* nodes(int64_t token) const { return way_to(first_ + token); }
  int64_t longest() const { return longest_; }  // positions that a token sees at most

 private:
  const int64_t* way_to(int64_t token) const {
    return token < 0 || branches_[token].empty() ? line_.data() : branches_[token].data();
  }

  std::vector<int64_t> line_;  // 0, 1, 2, ...
  std::vector<std::vector<int64_t>> branches_;
  std::vector<int64_t> depths_;
  int64_t first_, longest_ = 0;
};

// The tokens that are computed.
inline Pass computed(Pass pass) {
  pass.num_tokens -= pass.num_known;
  pass.slots += pass.num_known;
  pass.starts += pass.num_known;
  pass.nodes += pass.num_known;
  return pass;
}

template <class T>
struct Workspace {
  int64_t hidden, inputs, heads, intermediate;  // strides, in numbers
  std::vector<T> normed, joined, mixed, active;
  std::vector<float> queries, keys, values, returned;
  Workspace(const Model& model, int64_t num_tokens)
      : hidden(padded(model.hidden)),
        inputs(padded(model.layers[0].query.columns)),
        heads(padded(model.heads.num_heads * model.heads.head_dim)),
        intermediate(padded(model.intermediate)),
        normed(num_tokens * hidden),
        joined(model.layers[0].beside_norm == nullptr ? 0 : num_tokens * inputs),
        mixed(num_tokens * heads),
        active(num_tokens * intermediate),
        queries(num_tokens * model.heads.num_heads * model.heads.head_dim),
        keys(num_tokens * model.heads.num_kv_heads * model.heads.head_dim),
        values(keys.size()),
        returned(num_tokens * model.hidden) {}
};

inline float inverse_norm(const float* numbers, int64_t count, float epsilon) {
  Floats squares = {};
  for (int64_t i = 0; i < count; i += kFloats) {
    const Floats part = i + kFloats <= count ? load_floats(numbers + i) : load_floats(numbers + i, count - i);
    squares += part * part;
  }
  return 1.0f / std::sqrt(total(squares) / static_cast<float>(count) + epsilon);
}

template <class T>
void normalise(const float* from, const float* weight, int64_t count, float epsilon, T* to) {
  const float scale = weight == nullptr ? 1.0f : inverse_norm(from, count, epsilon);
  for (int64_t i = 0; i < count; ++i) store(to + i, weight == nullptr ? from[i] : from[i] * scale * weight[i]);
}

template <class T>
void normalise_tokens(const float* hidden, const float* weight, int64_t num_tokens, int64_t count, float epsilon,
                      T* to, int64_t stride) {
#pragma omp for schedule(static)
  for (int64_t token = 0; token < num_tokens; ++token)
    normalise(hidden + token * count, weight, count, epsilon, to + token * stride);
}

struct Copy {
  float* to;
  int64_t stride;
  void operator()(const Tile& tile) const {
    for (int64_t token = 0; token < tile.num_tokens; ++token)
      for (int64_t i = 0; i < tile.rows.count; ++i)
        to[(tile.first_token + token) * stride + tile.rows.at(i)] = tile.at(token, i);
  }
};

struct Add {
  float* to;
  int64_t stride;
  void operator()(const Tile& tile) const {
    for (int64_t token = 0; token < tile.num_tokens; ++token)
      for (int64_t i = 0; i < tile.rows.count; ++i)
        to[(tile.first_token + token) * stride + tile.rows.at(i)] += tile.at(token, i);
  }
};

template <class T>
class LayerRun {
 public:
  LayerRun(const Model& model, const Pass& pass, const Paths& paths, Workspace<T>& space, AttentionScratch<T>& scratch,
           float* hidden, int64_t index)
      : model_(model), layer_(model.layers[index]), pass_(pass), paths_(paths), space_(space), scratch_(scratch),
        hidden_(hidden), index_(index) {}

  // Called by all threads; ends with a barrier.
  void operator()() {
    const int64_t count = pass_.num_tokens;
    if (layer_.beside_norm != nullptr) {
      join();
      project(space_.joined.data());
    } else {
      normalise_tokens(hidden_, layer_.attention_norm, count, model_.hidden, model_.norm_epsilon,
                       space_.normed.data(), space_.hidden);
      project(space_.normed.data());
    }
    write_keys();
    mix();
    add_to_residual(layer_.output, space_.mixed.data(), space_.heads, layer_.attention_out_norm);
    normalise_tokens(hidden_, layer_.mlp_norm, count, model_.hidden, model_.norm_epsilon, space_.normed.data(),
                     space_.hidden);
    activate();
    add_to_residual(layer_.down, space_.active.data(), space_.intermediate, layer_.mlp_out_norm);
    if (pass_.taps[index_] != nullptr) {
#pragma omp single
      std::memcpy(pass_.taps[index_], hidden_, count * model_.hidden * sizeof(float));
    }
  }

 private:
  // Both inputs side by side, each with its norm.
  void join() {
    const int64_t size = model_.hidden;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < pass_.num_tokens; ++token) {
      float* states = hidden_ + token * size;
      T* joined = space_.joined.data() + token * space_.inputs;
      normalise(pass_.beside + token * size, layer_.beside_norm, size, model_.norm_epsilon, joined);
      normalise(states, layer_.attention_norm, size, model_.norm_epsilon, joined + size);
      if (layer_.is_residual_normed) normalise(states, layer_.attention_norm, size, model_.norm_epsilon, states);
    }
  }

  void project(const T* inputs) {
    const int64_t stride = space_.inputs, count = pass_.num_tokens;
    linear(layer_.query, inputs, stride, count, Copy{space_.queries.data(), layer_.query.rows});
    linear(layer_.key, inputs, stride, count, Copy{space_.keys.data(), layer_.key.rows});
    linear(layer_.value, inputs, stride, count, Copy{space_.values.data(), layer_.value.rows});
#pragma omp barrier
  }

  void write_keys() {
    const Heads& heads = model_.heads;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < pass_.num_tokens; ++token) {
      float* queries = space_.queries.data() + token * layer_.query.rows;
      float* keys = space_.keys.data() + token * layer_.key.rows;
      const float* values = space_.values.data() + token * layer_.value.rows;
      place(queries, heads.num_heads, layer_.query_norm, layer_.query_norm_size, token);
      place(keys, heads.num_kv_heads, layer_.key_norm, layer_.key_norm_size, token);
      const int64_t column = pass_.starts[token] + pass_.nodes[token];
      for (int64_t head = 0; head < heads.num_kv_heads; ++head) {
        T* key = buffer(pass_.keys, token, head) + column * heads.head_dim;
        T* value = buffer(pass_.values, token, head) + column * heads.head_dim;
        for (int64_t d = 0; d < heads.head_dim; ++d) {
          store(key + d, keys[head * heads.head_dim + d]);
          store(value + d, values[head * heads.head_dim + d]);
        }
      }
    }
  }

  // Norms, if there are any, then the rotary position.
  void place(float* states, int64_t num_heads, const float* norm, int64_t norm_size, int64_t token) {
    const Heads& heads = model_.heads;
    const int64_t count = num_heads * heads.head_dim;
    if (norm != nullptr)
      for (int64_t first = 0; first < count; first += norm_size)
        normalise(states + first, norm, norm_size, model_.norm_epsilon, states + first);
    const int64_t offset = position(token) * (heads.rotary_dim / 2);
    for (int64_t head = 0; head < num_heads; ++head)
      rotate(states + head * heads.head_dim, pass_.cosines + offset, pass_.sines + offset, heads.rotary_dim);
  }

  void mix() {
    const Heads& heads = model_.heads;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < pass_.num_tokens * heads.num_kv_heads; ++item) {
      const int64_t token = item / heads.num_kv_heads, head = item % heads.num_kv_heads;
      const int64_t end = position(token) + 1, offset = head * heads.group() * heads.head_dim;
      const int64_t first = layer_.window > 0 && end > layer_.window ? end - layer_.window : 0;
      const Past<T> keys{buffer(pass_.keys, token, head), heads.head_dim, pass_.starts[token],
                         paths_.nodes(token)};
      const Past<T> values{buffer(pass_.values, token, head), keys.head_dim, keys.start, keys.path};
      attend(heads, keys, values, first, end, space_.queries.data() + token * layer_.query.rows + offset,
             space_.mixed.data() + token * space_.heads + offset, scratch_);
    }
  }

  void add_to_residual(const Matrix& matrix, const T* tokens, int64_t stride, const float* norm) {
    if (norm == nullptr) {
      linear(matrix, tokens, stride, pass_.num_tokens, Add{hidden_, model_.hidden});
#pragma omp barrier
      return;
    }
    float* returned = space_.returned.data();
    linear(matrix, tokens, stride, pass_.num_tokens, Copy{returned, model_.hidden});
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t token = 0; token < pass_.num_tokens; ++token) {
      float* row = returned + token * model_.hidden;
      normalise(row, norm, model_.hidden, model_.norm_epsilon, row);
      for (int64_t i = 0; i < model_.hidden; ++i) hidden_[token * model_.hidden + i] += row[i];
    }
  }

  // silu(gate) * up
  void activate() {
    const T* normed = space_.normed.data();
    const int64_t num_tokens = pass_.num_tokens;
    const int64_t most = tile_tokens(num_tokens);
    share_rows(layer_.gate.rows, [&](const Rows& rows) {
      for (int64_t first = 0; first < num_tokens; first += most) {
        const int64_t count = num_tokens - first < most ? num_tokens - first : most;
        float gates[kMostResults] = {}, ups[kMostResults] = {};
        const T* tokens = normed + first * space_.hidden;
        multiply<T>(layer_.gate, rows, tokens, space_.hidden, count, first <= most, gates);
        multiply<T>(layer_.up, rows, tokens, space_.hidden, count, first <= most, ups);
        T active[kMostResults];
        for (int64_t i = 0; i < count * rows.count; i += kFloats) {
          const Floats gate = load<Floats>(gates + i);
          store_all(active + i, gate / (1.0f + exponential(-gate)) * load<Floats>(ups + i));
        }
        for (int64_t token = 0; token < count; ++token)
          for (int64_t i = 0; i < rows.count; ++i)
            space_.active[(first + token) * space_.intermediate + rows.at(i)] = active[token * rows.count + i];
      }
    });
#pragma omp barrier
  }

  int64_t position(int64_t token) const {
    return pass_.starts[token] + paths_.depth(token);
  }

  T* buffer(void* const* buffers, int64_t token, int64_t head) const {
    const int64_t row = pass_.slots[token] * model_.heads.num_kv_heads + head;
    return static_cast<T*>(buffers[index_]) + row * pass_.columns[index_] * model_.heads.head_dim;
  }

  const Model& model_;
  const Layer& layer_;
  const Pass& pass_;
  const Paths& paths_;
  Workspace<T>& space_;
  AttentionScratch<T>& scratch_;  // of this thread
  float* hidden_;
  int64_t index_;
};

}  // namespace evodraft
