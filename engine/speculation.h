#pragma once
// Guessing ahead in answers that repeat what was said before, and when that pays. A guess is what followed the same words
// earlier (prompt lookup: Saxena 2023; LLMA: Yang et al. 2023, arXiv:2304.04487); the rows that verify it are sampled as any
// others, so nothing here decides which token comes. Pure logic, no clock. Not thread-safe.
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "engine/tokenizer.h"

namespace glmd {

/// The tokens of one sequence: what may come next, and how often such guesses were right in it.
class PromptLookup {
public:
    explicit PromptLookup(std::span<const TokenId> prompt);
    /// The answer's next token. Whether it was guessed right is counted, be the guess verified or not.
    void add(TokenId id);

    struct Guess {
        std::vector<TokenId> tokens;
        std::vector<double> chance;  // that this one is right, and those before it
    };
    /// What followed the longest earlier occurrence of the last tokens (two at least), the latest of equals.
    Guess guess(int most) const;

private:
    /// By how many tokens agreed before.
    struct Rate {
        double right = 0, tried = 0;
    };
    static std::size_t rate_of(int match);
    double chance(int match) const;
    void search();

    std::vector<TokenId> tokens_;
    std::size_t at_ = 0;  // of the token that is guessed to come next
    int match_ = 0;       // tokens before it that agree with the last ones; 1: behind a single wrong one; 0: no guess
    std::array<Rate, 7> rates_{};
    double copying_;  // how much of the last dozen tokens was guessed right, from 0 to 1
};

/// How many guesses the next step should verify, from what steps of nothing but answers took by their number of rows.
class DraftPlanner {
public:
    void note(int rows, double seconds);
    /// One count per sequence; `chances` has Guess::chance of each, empty for those without. At most `most` in all. None when
    /// it isn't expected to pay for all together, or when it would slow down a sequence that has less of it, unless `always`.
    std::vector<int> choose(std::span<const std::vector<double>> chances, int most, bool always = false) const;
    /// Expected; of rows never seen optimistic, so that they are tried.
    double seconds(int rows) const;

private:
    struct Cost {
        double seconds = 0;  // 0: unknown
        int seen = 0;
    };
    std::vector<Cost> costs_;  // by rows
};

}  // namespace glmd
