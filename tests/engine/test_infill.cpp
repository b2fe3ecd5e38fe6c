// Cutting texts at their blanks, and the prompts that follow from it.
#include "engine/infill.h"

#include <catch2/catch.hpp>

using namespace glmd;

namespace {

/// A byte is an id; the names of masks would be special if they were parsed.
class Bytes final : public Tokenizer {
public:
    std::vector<TokenId> encode(std::string_view text, Specials specials) const override {
        REQUIRE(specials == Specials::as_text);
        return {text.begin(), text.end()};
    }
    std::string piece(TokenId id) const override { return std::string(1, static_cast<char>(id)); }
    std::optional<TokenId> special(std::string_view) const override { return {}; }
    bool is_special(TokenId id) const override { return id > 255; }
    int size() const override { return 256; }
    std::string decode(std::span<const TokenId> ids) const override { return {ids.begin(), ids.end()}; }
};

BlankRules rules(bool answers_follow) {
    BlankRules r;
    r.masks = {1000, 1001, 1002};
    r.first = 1003, r.last = 1004, r.start = 1005;
    r.bare = {1002};
    r.answers_follow = answers_follow;
    r.strip = true;
    return r;
}

using Ids = std::vector<TokenId>;

}  // namespace

TEST_CASE("infill: a text is cut at its blanks") {
    const BlankText cut = cut_at_blanks("a [MASK] b[sMASK][gMASK]");
    CHECK(cut.texts == std::vector<std::string>{"a ", " b", "", ""});
    CHECK(cut.kinds == std::vector{BlankKind::words, BlankKind::sentence, BlankKind::passage});
    CHECK(cut_at_blanks("[mask] [MASK [MAS[MASK]K]").texts == std::vector<std::string>{"[mask] [MASK [MAS", "K]"});
    CHECK(cut_at_blanks("").texts == std::vector<std::string>{""});
    const BlankText own = cut_at_blanks("[MASK] is ___, ___", "___");
    CHECK(own.texts == std::vector<std::string>{"[MASK] is ", ", ", ""});
    CHECK(own.kinds == std::vector{BlankKind::words, BlankKind::words});
}

TEST_CASE("infill: GLM's answers follow the text") {
    Infill infill(rules(true), Bytes(), cut_at_blanks("a [MASK] b [sMASK]"));
    CHECK(infill.prompt() == Ids{1003, 'a', 1000, 'b', 1001, 1004, 1005});
    CHECK(infill.rows().size() == 1);
    CHECK((infill.rows()[0].mask == 2 && infill.rows()[0].start == 6));
    CHECK(infill.room(16) == (16 - 6 - 2) / 2);
    CHECK(infill.room(9) == 0);
    infill.fill(Ids{'x', 'y', 'z'}, true);  // the last one was never run
    CHECK(infill.prompt() == Ids{1003, 'a', 1000, 'b', 1001, 1004, 1005, 'x', 'y', 1005});
    CHECK((infill.rows()[1].mask == 4 && infill.rows()[1].start == 9));
    CHECK(infill.room(16) == 6);
    CHECK(!infill.done());
    infill.fill(Ids{}, false);
    CHECK(infill.done());
}

TEST_CASE("infill: GLM-130B's answers take their masks' places") {
    BlankRules r = rules(false);
    r.first = -1, r.strip = false;
    Infill infill(r, Bytes(), cut_at_blanks("[MASK]b [gMASK]"));
    CHECK(infill.prompt() == Ids{1000, 'b', ' ', 1002, 1005});  // bare: nothing behind a last [gMASK]
    infill.fill(Ids{'x', 'y'}, true);
    CHECK(infill.prompt() == Ids{'x', 'y', 'b', ' ', 1002, 1005});
    CHECK((infill.rows().size() == 1 && infill.rows()[0].mask == 4 && infill.rows()[0].start == 5));
    infill.fill(Ids{}, false);
    CHECK(infill.done());
}
