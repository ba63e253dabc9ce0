// One pass of Llama-like decoder layers over a few new tokens, on the model's own weights.
//
// Sums and the residual stream are float32; inputs of matrix products, keys and values have the type of the weights.
// One parallel region per call. This file does not know slots' lengths, sampling or Python.

#include "attention.h"
#include "linear.h"
#include "noise.h"

#include <algorithm>
#include <cmath>
#include <new>
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

// A pass of one layer with two inputs, embeddings of tokens and states fused from those of another model; and what
// follows: the final norm, the output matrix, the best token, and the layer again for that token and its own states.
struct Chain {
  Matrix fuse, head;      // [hidden, taps], [ids, hidden]
  const void* taps;       // [tokens of the pass, taps]; null: nothing is fused
  const float* given;     // then the states themselves [tokens of the pass, hidden]
  const int64_t* tokens;  // [tokens of the pass]
  const float* final_norm;
  const int64_t* ids;      // token of each row of the head; null: the row's number
  const void* embedding;   // [embedding_rows, hidden]
  int64_t embedding_rows;  // tokens beyond them are read as token 0
  int64_t num_drafts, depth;
  const int64_t* last;  // token of the pass that each draft goes on from
  float* states;        // [num_drafts, hidden] behind that token
  float* logits;        // [num_drafts, ids]: the last ones in the end
  int64_t* token_ids;   // [num_drafts, depth]; -1: logits were not finite, and what follows means nothing
  float* signals;       // [num_drafts, depth, 3]: entropy, largest and second probability; or null
};

namespace {

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

// The token after each draft, and what a controller may know of it.
struct Choice {
  int64_t row;  // of the head; -1: the logits are not finite
  float largest, second;
};

inline Choice choose(const float* logits, int64_t count) {
  const Floats kLowest = Floats{} - INFINITY;
  Floats largest = kLowest, second = kLowest, spoilt = {};
  for (int64_t i = 0; i < count; i += kFloats) {
    Floats part = i + kFloats <= count ? load<Floats>(logits + i) : load_floats(logits + i, count - i);
    for (int64_t lane = count - i; lane < kFloats; ++lane) part[lane] = -INFINITY;
    spoilt += part != part ? Floats{} + 1.0f : Floats{};
    const Floats smaller = part < largest ? part : largest;
    second = smaller > second ? smaller : second;
    largest = part > largest ? part : largest;
  }
  Choice choice{-1, -INFINITY, -INFINITY};
  for (int64_t lane = 0; lane < kFloats; ++lane) {
    choice.second = std::max({choice.second, second[lane], std::min(choice.largest, largest[lane])});
    choice.largest = std::max(choice.largest, largest[lane]);
  }
  if (total(spoilt) > 0.0f || !std::isfinite(choice.largest)) return choice;
  for (choice.row = 0; logits[choice.row] != choice.largest;) ++choice.row;
  return choice;
}

// Entropy in nats, largest and second probability.
inline void write_signals(const float* logits, int64_t count, const Choice& choice, float* signals) {
  Floats sums = {}, products = {};
  for (int64_t i = 0; i < count; i += kFloats) {
    Floats part = i + kFloats <= count ? load<Floats>(logits + i) : load_floats(logits + i, count - i);
    part -= choice.largest;
    part = part < -87.0f ? Floats{} - 87.0f : part;
    Floats powers = exponential(part);
    for (int64_t lane = count - i; lane < kFloats; ++lane) powers[lane] = 0.0f;
    sums += powers;
    products += powers * part;
  }
  const float sum = total(sums);
  signals[0] = std::log(sum) - total(products) / sum;
  signals[1] = 1.0f / sum;
  signals[2] = std::exp(choice.second - choice.largest) / sum;
}

// Drafts in one parallel region: no token of a draft but waits for the one before.
template <class T>
class ChainRun {
 public:
  ChainRun(const Model& model, const Pass& pass, const Chain& chain)
      : model_(model), chain_(chain), first_paths_(pass), space_(model, pass.num_tokens),
        taps_(pass.num_tokens * padded(chain.fuse.columns)), normed_(chain.num_drafts * space_.hidden),
        hidden_(pass.num_tokens * model.hidden), embedded_(hidden_.size()), states_(chain.num_drafts * model.hidden),
        slots_(chain.num_drafts), starts_(chain.num_drafts), nodes_(chain.num_drafts), parents_(chain.num_drafts, -1),
        first_(pass), next_(pass) {
    for (int64_t draft = 0; draft < chain.num_drafts; ++draft) {
      const int64_t last = chain.last[draft];
      slots_[draft] = pass.slots[last];
      starts_[draft] = pass.starts[last] + pass.nodes[last] + 1;
    }
    next_.num_tokens = chain.num_drafts;
    next_.slots = slots_.data();
    next_.starts = starts_.data();
    next_.nodes = nodes_.data();
    next_.parents = parents_.data();
    first_.beside = next_.beside = embedded_.data();
    next_paths_ = Paths(next_);
  }

  int64_t operator()() {
    int64_t is_short = 0;
#pragma omp parallel num_threads(first_.num_threads)
    {
      AttentionScratch<T> scratch;
      if (!scratch.reserve(model_.heads, std::max(first_paths_.longest(), next_paths_.longest() + chain_.depth))) {
#pragma omp atomic write
        is_short = 1;
      }
#pragma omp barrier
      for (int64_t index = 0; index < chain_.depth && !is_short; ++index) {
        if (index == 0)
          fuse(), LayerRun<T>(model_, first_, first_paths_, space_, scratch, hidden_.data(), 0)();
        else
          LayerRun<T>(model_, next_, next_paths_, space_, scratch, states_.data(), 0)();
        extend(index);
      }
    }
    return is_short;
  }

 private:
  // Both are called by all threads, and end with a barrier.
  void fuse() {
    const int64_t columns = chain_.fuse.columns, stride = padded(columns);
    const T* taps = static_cast<const T*>(chain_.taps);
    const int64_t size = model_.hidden;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < first_.num_tokens; ++token) {
      embed(chain_.tokens[token], embedded_.data() + token * size);
      if (taps == nullptr)
        std::memcpy(hidden_.data() + token * size, chain_.given + token * size, size * sizeof(float));
      else
        std::memcpy(taps_.data() + token * stride, taps + token * columns, columns * sizeof(T));
    }
    if (taps == nullptr) return;
    linear(chain_.fuse, taps_.data(), stride, first_.num_tokens, Copy{hidden_.data(), model_.hidden});
#pragma omp barrier
  }

  void extend(int64_t index) {
    const int64_t size = model_.hidden, count = chain_.num_drafts;
#pragma omp for schedule(static)
    for (int64_t draft = 0; draft < count; ++draft) {
      float* states = states_.data() + draft * size;
      if (index == 0) {
        std::memcpy(states, hidden_.data() + chain_.last[draft] * size, size * sizeof(float));
        std::memcpy(chain_.states + draft * size, states, size * sizeof(float));
      } else {
        ++starts_[draft];
      }
      normalise(states, chain_.final_norm, size, model_.norm_epsilon, normed_.data() + draft * space_.hidden);
    }
    linear(chain_.head, normed_.data(), space_.hidden, count, Copy{chain_.logits, chain_.head.rows});
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t draft = 0; draft < count; ++draft) take(draft, index);
  }

  void take(int64_t draft, int64_t index) {
    const int64_t place = draft * chain_.depth + index;
    const float* logits = chain_.logits + draft * chain_.head.rows;
    const Choice choice = choose(logits, chain_.head.rows);
    const int64_t row = choice.row < 0 ? 0 : choice.row;
    const int64_t token_id = chain_.ids == nullptr ? row : chain_.ids[row];
    chain_.token_ids[place] = choice.row < 0 ? -1 : token_id;
    if (chain_.signals != nullptr) write_signals(logits, chain_.head.rows, choice, chain_.signals + 3 * place);
    embed(token_id, embedded_.data() + draft * model_.hidden);
  }

  void embed(int64_t token_id, float* to) const {
    const int64_t size = model_.hidden;
    const T* embedding = static_cast<const T*>(chain_.embedding);
    const T* from = embedding + (token_id < chain_.embedding_rows ? token_id : 0) * size;
    for (int64_t i = 0; i < size; i += kFloats) {
      const int64_t left = size - i < kFloats ? size - i : kFloats;
      const Floats numbers = left == kFloats ? load_floats(from + i) : load_floats(from + i, left);
      std::memcpy(to + i, &numbers, left * sizeof(float));
    }
  }

  const Model& model_;
  const Chain& chain_;
  const Paths first_paths_;
  Workspace<T> space_;
  std::vector<T> taps_, normed_;
  std::vector<float> hidden_, embedded_, states_;
  std::vector<int64_t> slots_, starts_, nodes_, parents_;
  Pass first_, next_;
  Paths next_paths_{Pass{}};
};

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
