#include "engine/speculation.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

using namespace glmd;

namespace {

DraftPlanner planner(const std::function<double(int)>& seconds, int most = 24) {
    DraftPlanner p;
    for (int i = 0; i < 3; ++i)  // two of them are for warming up
        for (int rows = 1; rows <= most; ++rows) p.note(rows, seconds(rows));
    return p;
}

int sum(const std::vector<int>& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }

}  // namespace

TEST_CASE("prompt lookup: what followed the longest earlier occurrence, the latest of equals") {
    using Ids = std::vector<TokenId>;
    CHECK(PromptLookup(Ids{1, 2, 3, 4, 5}).guess(4).tokens.empty());
    CHECK(PromptLookup(Ids{1, 2}).guess(4).tokens.empty());
    CHECK(PromptLookup(Ids{}).guess(4).tokens.empty());
    CHECK(PromptLookup(Ids{1, 2, 3, 4, 5, 1, 2}).guess(3).tokens == Ids{3, 4, 5});
    CHECK(PromptLookup(Ids{1, 2, 3, 9, 2, 3, 7, 1, 2, 3}).guess(2).tokens == Ids{9, 2});   // three agree
    CHECK(PromptLookup(Ids{1, 2, 3, 8, 1, 2, 4, 8, 1, 2}).guess(1).tokens == Ids{4});      // two equals: the latter
    CHECK(PromptLookup(Ids{5, 6, 7, 5, 6, 7}).guess(7).tokens == Ids{5, 6, 7, 5, 6, 7, 5});  // a loop goes on
    CHECK(PromptLookup(Ids{4, 4, 4, 4}).guess(3).tokens == Ids{4, 4, 4});

    PromptLookup l(Ids{1, 2, 3, 4, 5});
    l.add(1);
    l.add(2);
    CHECK(l.guess(2).tokens == Ids{3, 4});
    l.add(3);
    CHECK(l.guess(2).tokens == Ids{4, 5});
    l.add(9);  // wrong
    CHECK(l.guess(2).tokens.empty());

    PromptLookup edit(Ids{1, 2, 3, 4, 5, 6, 7, 8, 9});
    for (const TokenId id : {1, 2, 3, 4, 50}) edit.add(id);  // 50 in the place of 5
    CHECK(edit.guess(2).tokens == Ids{6, 7});
    edit.add(6);
    CHECK(edit.guess(2).tokens == Ids{7, 8});
}

TEST_CASE("prompt lookup: chances follow how guesses fared, verified or not") {
    std::mt19937 random(1);
    std::vector<TokenId> text;
    for (int i = 0; i < 400; ++i) text.push_back(static_cast<TokenId>(random() % 1000));
    PromptLookup quotes(text), wanders(text);
    for (int i = 100; i < 160; ++i) quotes.add(text[i]);
    CHECK(quotes.guess(8).chance.back() > 0.9);
    for (int i = 0; i < 60; ++i) {  // two words of the text, then another
        wanders.add(text[5 * i]);
        wanders.add(text[5 * i + 1]);
        const auto g = wanders.guess(1);
        if (i == 59) CHECK(g.chance.at(0) < 0.1);
        wanders.add(-1);
    }
    const auto g = quotes.guess(8);
    for (std::size_t i = 1; i < g.chance.size(); ++i) CHECK(g.chance[i] <= g.chance[i - 1]);
}

TEST_CASE("draft planner: verifies as much as pays, and nothing that doesn't") {
    const std::vector<std::vector<double>> sure{{0.95, 0.9, 0.86, 0.81, 0.77, 0.74, 0.7, 0.66}}, doubtful{{0.15, 0.02}}, none{{}};
    const auto flat = planner([](int) { return 0.1; }), steep = planner([](int rows) { return 0.1 * rows; });
    CHECK(flat.choose(sure, 8) == std::vector{8});
    CHECK(flat.choose(sure, 3) == std::vector{3});
    CHECK(steep.choose(sure, 8) == std::vector{0});
    CHECK(flat.choose(none, 8) == std::vector{0});
    CHECK(DraftPlanner().choose(sure, 8) == std::vector{0});  // nothing is known yet
    CHECK(DraftPlanner().choose(sure, 8, true) == std::vector{8});
    CHECK(planner([](int rows) { return 1 + 0.2 * (rows - 1); }).choose(doubtful, 8) == std::vector{0});
    // Rows are dear from the fifth on.
    CHECK(planner([](int rows) { return rows <= 4 ? 1.0 : 4.0; }).choose(sure, 8) == std::vector{3});
}

TEST_CASE("draft planner: nobody is slowed down for another's guesses") {
    const auto p = planner([](int rows) { return 1 + 0.1 * (rows - 1); });
    const std::vector<double> sure{0.95, 0.9, 0.86, 0.81, 0.77, 0.74, 0.7, 0.66};
    CHECK(sum(p.choose(std::vector<std::vector<double>>{sure}, 8)) > 4);
    CHECK(sum(p.choose(std::vector<std::vector<double>>{sure, {}}, 8)) == 0);
    const auto both = p.choose(std::vector<std::vector<double>>{sure, sure}, 8);
    CHECK(sum(both) == 8);
    CHECK(both[0] == both[1]);
    // A row that costs nothing is nobody's loss.
    CHECK(sum(planner([](int) { return 1.0; }).choose(std::vector<std::vector<double>>{sure, {}}, 8)) == 8);
}

TEST_CASE("draft planner: tries what it never saw, and forgets a hiccup") {
    const std::vector<std::vector<double>> sure{{0.95, 0.9, 0.86, 0.81}};
    DraftPlanner p;
    for (int i = 0; i < 3; ++i) p.note(1, 0.1);
    CHECK(p.choose(sure, 4) == std::vector{4});
    for (int i = 0; i < 3; ++i) p.note(5, 5.0);  // somebody else had the machine
    int steps = 0;
    while (p.choose(sure, 4)[0] != 4 && steps < 20000) p.note(1 + p.choose(sure, 4)[0], 0.1), ++steps;
    CHECK(steps < 20000);
    CHECK(p.seconds(5) < 0.5);
}
