#pragma once
// One request while it is in the engine. Owned and touched by the engine's thread only, but for the cancel flag.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/models/model.h"

namespace glmd {

using Clock = std::chrono::steady_clock;

/// Text that leaves the engine: whole characters, held back while it may be the start of a stop string.
class StopFilter {
public:
    explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
    /// Appends what may be said now to `out`; true when a stop string was met (the text before it was said).
    bool push(std::string_view text, std::string& out);
    /// What was held back, at the end of an answer.
    std::string rest() { return std::move(held_); }

private:
    std::vector<std::string> stops_;
    std::string held_;
};

struct Sequence {
    Sequence(GenerationRequest r, GenerationSink s, const Tokenizer& tokenizer, std::shared_ptr<std::atomic<bool>> cancel)
        : request(std::move(r)), sink(std::move(s)), sampler(request.sampling), decoder(tokenizer), stop(request.stop),
          cancelled(std::move(cancel)) {}

    GenerationRequest request;
    GenerationSink sink;
    Sampler sampler;
    StreamDecoder decoder;
    StopFilter stop;
    std::shared_ptr<std::atomic<bool>> cancelled;

    std::vector<std::int32_t> blocks;  // KV blocks, in order
    int cached = 0;                    // tokens whose keys and values are in the cache
    PromptLayout layout;
    int fill_layer = 0, fill_row = 0;  // where the prefill of a bidirectional prompt stands: (layer, half, row)
    bool fill_rest = false;
    TokenId next = 0;                  // the token to feed, once the prompt is cached
    int generated = 0;
    Clock::time_point submitted = Clock::now(), started, prefilled;

    /// Position and block position of token `index` of prompt and answer.
    std::pair<int, int> place(int index) const {
        const int last = static_cast<int>(request.prompt.size()) - 1;
        if (index <= last) return {layout.positions[index], layout.block_positions[index]};
        return {layout.positions[last] + (index - last) * layout.position_step,
                layout.block_positions[last] + (index - last) * layout.block_step};
    }
    bool prefilling() const { return cached < static_cast<int>(request.prompt.size()); }
};

}  // namespace glmd
