#pragma once
// Blank infilling, as the GLM papers do it: a text with [MASK] (some words), [sMASK] (a sentence) or [gMASK] (at length) in it
// is filled from left to right, one generation per blank. This plans their prompts. GLM: arXiv 2103.10360; GLM-130B: 2210.02414.
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer.h"

namespace glmd {

enum class BlankKind : std::uint8_t { words, sentence, passage };
inline constexpr std::array<std::string_view, 3> blank_names{"[MASK]", "[sMASK]", "[gMASK]"};  // by kind

/// How a model that fills blanks wants them written; ids are -1 where it has none. Each family's file says it.
struct BlankRules {
    std::array<TokenId, 3> masks{-1, -1, -1};  // by kind
    TokenId first = -1;                        // before the text
    TokenId last = -1;                         // after it
    std::vector<TokenId> bare;                 // a text that ends in one of these masks gets no `last`
    TokenId start = -1;                        // before an answer
    /// Answers stay behind the text, each causal and with what came before in sight (GLM). Otherwise an answer takes its
    /// mask's place in the text, which is then read anew (GLM-130B, ChatGLM-6B).
    bool answers_follow = false;
    bool strip = false;  // white space around a mask is dropped

    TokenId id(BlankKind kind) const { return masks[static_cast<std::size_t>(kind)]; }
};

/// An answer within a prompt: its rows from `start` on, up to the next answer's, belong to the mask at index `mask`.
struct BlankRows {
    int mask = 0, start = 0;
};

/// A text cut at its blanks: there is one text more than kinds.
struct BlankText {
    std::vector<std::string> texts;
    std::vector<BlankKind> kinds;
};
/// At the three names; or at `marker` alone, if given, which then means [MASK].
BlankText cut_at_blanks(std::string_view text, std::string_view marker = {});

/// A text on the way to being filled. Ask for prompt() and rows(), generate, fill(); until done().
class Infill {
public:
    /// The whole context in ids, and the indices of its masks in order.
    Infill(BlankRules rules, std::vector<TokenId> context, std::vector<int> masks);
    /// The model must have ids for all the kinds. What a user wrote is only ever text.
    Infill(BlankRules rules, const Tokenizer& tokenizer, const BlankText& text);

    bool done() const { return next_ == masks_.size(); }
    std::vector<TokenId> prompt() const;
    std::vector<BlankRows> rows() const;
    /// Tokens that the next answer may have, so that the later ones have as much; below 1: the context is too small.
    int room(int context) const;
    /// The next blank's answer, without an end token. `cut`: it ran into its limit.
    void fill(std::span<const TokenId> answer, bool cut);

private:
    BlankRules rules_;
    std::vector<TokenId> ids_;
    std::vector<int> masks_;
    std::vector<BlankRows> rows_;
    std::size_t next_ = 0;
};

}  // namespace glmd
