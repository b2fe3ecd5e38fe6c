#pragma once
// Tokenizers as upstream ships them, turned into the lists of GGUF's metadata.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/plan.h"

namespace glmd {

struct TokenizerFiles {
    std::string model, pre;  // tokenizer.ggml.model, .pre
    std::vector<std::string> tokens, merges;
    std::vector<float> scores;
    std::vector<std::int32_t> types;
    std::string sentencepiece;  // the whole model
    std::int64_t id_offset = 0;
    bool add_space_prefix = true, remove_extra_whitespaces = false;
    std::map<std::string, std::int64_t> special;  // names to ids
    std::string chat_template;                    // upstream's text, if it has one
    Config config;                                // tokenizer_config.json
};

/// Looks into a folder (or a folder beside the file given); nothing when there is no tokenizer. `vocabulary`: rows of the
/// embedding; the lists are filled up to it. ModelError for a tokenizer that is damaged or doesn't fit.
std::optional<TokenizerFiles> read_tokenizer(const std::string& folder, const TokenizerFamily& family, const std::string& chat_template,
                                             std::int64_t vocabulary);

}  // namespace glmd
