#include <catch2/catch.hpp>

#include "cli/terminal.h"

using namespace glmd;

TEST_CASE("widths of text on a terminal") {
    CHECK(display_width("") == 0);
    CHECK(display_width("abc") == 3);
    CHECK(display_width("你好，世界！") == 12);
    CHECK(display_width("ﾊﾝｶｸ") == 4);        // half-width katakana
    CHECK(display_width("한국어") == 6);
    CHECK(display_width("naïve") == 5);
    CHECK(display_width("e\u0301") == 1);      // combining accent
    CHECK(display_width("😀") == 2);
    CHECK(display_width("👍🏽") == 2);           // with a skin tone
    CHECK(display_width("👩‍👩‍👧‍👦") == 2);          // joined
    CHECK(display_width("🇨🇳🇩🇪") == 4);          // two flags
    CHECK(display_width("❤️") == 2);            // a narrow sign shown as an emoji
    CHECK(display_width("𠀀") == 2);            // beyond the first plane
    CHECK(display_width("\xFF\xFE") == 2);     // not UTF-8: two replacement characters
}

TEST_CASE("text is cut between characters") {
    CHECK(fit("你好世界", 8) == "你好世界");
    CHECK(fit("你好世界", 7) == "你好世…");
    CHECK(fit("你好世界", 6) == "你好…");
    CHECK(fit("a\n b\tc", 10) == "a b c");
    CHECK(fit("abc", 0) == "");
    CHECK(pad("你", 4) == "你  ");
}

TEST_CASE("text can't drive the terminal") {
    CHECK(printable("a\033[2Jb") == "a[2Jb");
    CHECK(printable("a\xC2\x9B" "b") == "ab");   // the 8-bit CSI
    CHECK(printable("a\xFF" "b") == "a\uFFFDb");
    CHECK(printable("一\n二\t三\r") == "一\n二\t三");
}

TEST_CASE("UTF-8 is checked") {
    CHECK(valid_utf8("你好 😀"));
    CHECK_FALSE(valid_utf8("\xE4\xBD"));
    CHECK_FALSE(valid_utf8("\xC0\x80"));
    CHECK_FALSE(valid_utf8("\xED\xA0\x80"));
}

TEST_CASE("sizes and times") {
    CHECK(human_bytes(512) == "512 B");
    CHECK(human_bytes(1.5 * 1024 * 1024 * 1024) == "1.5 GiB");
    CHECK(human_seconds(200) == "3 min 20 s");
}
