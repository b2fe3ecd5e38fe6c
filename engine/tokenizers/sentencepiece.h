#pragma once
#include <memory>

#include "engine/tokenizer.h"

namespace glmd {

/// tokenizer.ggml.model == "llama", or a whole model in glmd.tokenizer.sentencepiece. Throws ModelError.
std::unique_ptr<Tokenizer> load_sentencepiece(const Gguf& file);

}  // namespace glmd
