#pragma once
#include <memory>

#include "engine/tokenizer.h"

namespace glmd {

/// tokenizer.ggml.model == "gpt2": byte-level BPE. Throws ModelError.
std::unique_ptr<Tokenizer> load_bpe(const Gguf& file);

}  // namespace glmd
