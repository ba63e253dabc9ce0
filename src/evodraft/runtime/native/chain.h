// Drafts in one call: a pass of a layer with two inputs, the token behind it, and the layer again for that token.
//
// A token is the best one, or drawn from its law with noise that was settled before. This file does not know what
// becomes of drafts.

#pragma once

#include "draw.h"
#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace evodraft {

// A pass of one layer with two inputs, embeddings of tokens and states fused from those of another model; and what
// follows: the final norm, the output matrix, the next token, and the layer again for that token and its own states.
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
  const uint32_t* words;      // of the noise of each token [num_drafts, depth, 2]; null: best tokens
  const float* temperatures;  // [num_drafts] of the laws that are drawn from
  float* laws;                // [num_drafts, depth, ids]: what each token was drawn from
};

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
    const int64_t row = choice.row < 0 ? 0 : chain_.words == nullptr ? choice.row : draw(draft, place, choice.largest);
    const int64_t token_id = chain_.ids == nullptr ? row : chain_.ids[row];
    chain_.token_ids[place] = choice.row < 0 ? -1 : token_id;
    if (chain_.signals != nullptr) write_signals(logits, chain_.head.rows, choice, chain_.signals + 3 * place);
    embed(token_id, embedded_.data() + draft * model_.hidden);
  }

  int64_t draw(int64_t draft, int64_t place, float largest) const {
    const int64_t count = chain_.head.rows;
    float* law = chain_.laws + place * count;
    write_law(chain_.logits + draft * count, count, largest, chain_.temperatures[draft], law);
    return race(law, count, chain_.ids, chain_.words[2 * place], chain_.words[2 * place + 1]);
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

}  // namespace evodraft
