#include "engine/sequence.h"

#include <catch2/catch.hpp>

using namespace glmd;

TEST_CASE("stop strings are found across pieces and never said") {
    const std::string text = "one two STOP three";
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
        StopFilter f({"STOP", "never"});
        std::string out;
        bool stopped = f.push(text.substr(0, cut), out);
        if (!stopped) stopped = f.push(text.substr(cut), out);
        CHECK(stopped);
        CHECK(out == "one two ");
    }
}

TEST_CASE("what only looked like a stop string is said in the end") {
    StopFilter f({"STOP"});
    std::string out;
    CHECK_FALSE(f.push("a ST", out));
    CHECK(out == "a ");
    CHECK_FALSE(f.push("ART ST", out));
    CHECK(out == "a START ");
    CHECK(f.rest() == "ST");
}
