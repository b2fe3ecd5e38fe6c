#pragma once
// A model ready to run: packed if need be, mapped, planned, with its KV pool. The engine's thread owns one; tests,
// perplexity and self-tests use one alone.
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "engine/models/model.h"

namespace glmd {

/// Members are destroyed in reverse: what comes first outlives what comes later. One thread at a time.
struct LoadedModel {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Gguf> metadata;
    std::unique_ptr<PackedFile> weights;
    std::unique_ptr<Tokenizer> tokenizer;
    std::unique_ptr<ChatTemplate> chat_template;
    std::unique_ptr<Model> model;
    std::unique_ptr<KvPool> pool;
    Precision precision = Precision::exact;
    MemoryPlan plan;
    std::vector<TokenId> end_ids;  // of the chat format and of the file
    ModelInfo info;
};

/// Throws ModelError and BackendError; "insufficient memory: …" with the numbers before anything big is allocated.
LoadedModel load_model(const std::string& gguf_path, const EngineOptions& options);

/// One sequence run by hand, without an engine: logits of every id that is fed, [ids, vocabulary]; the first call is the prompt.
/// Uses the pool's first blocks, so one at a time. A bidirectional prompt may be as long as options.max_sequences.
class Evaluation {
public:
    Evaluation(LoadedModel& model, const EngineOptions& options, std::vector<BlankRows> blanks = {});
    ~Evaluation();
    std::vector<float> feed(std::span<const TokenId> ids);
    int tokens() const { return tokens_; }

private:
    LoadedModel& model_;
    EngineOptions options_;
    std::unique_ptr<class StepBuffers> buffers_;
    std::vector<BlankRows> blank_rows_;
    std::vector<std::int32_t> blocks_;
    PromptLayout layout_;
    int tokens_ = 0;
};

}  // namespace glmd
