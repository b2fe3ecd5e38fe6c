#include <catch2/catch.hpp>
#include <utility>
#include <vector>

#include "cli/client.h"

using glmd::SseParser;

namespace {
using Events = std::vector<std::pair<std::string, std::string>>;

Events parse(const std::vector<std::string_view>& pieces) {
    Events events;
    SseParser parser([&](std::string_view event, std::string_view data) { events.emplace_back(event, data); });
    for (std::string_view piece : pieces) parser.feed(piece);
    return events;
}

const std::string stream =
    "\xEF\xBB\xBF: keep-alive\n\n"
    "event: response.output_text.delta\ndata: {\"delta\":\"你好\"}\n\n"
    "data: one\r\ndata:two\r\n\r\n"
    "event: dropped\n\n"
    "id: 7\nretry: 10\nunknown\ndata\n\n"
    ": comment\rdata: {\"error\":{}}\r\r"
    "data: never finished\n";
const Events expected = {
    {"response.output_text.delta", "{\"delta\":\"你好\"}"}, {"", "one\ntwo"}, {"", ""}, {"", "{\"error\":{}}"}};
}  // namespace

TEST_CASE("server-sent events come out whole") { CHECK(parse({stream}) == expected); }

TEST_CASE("server-sent events may be cut at any byte") {
    for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
        const std::string_view all = stream;
        CHECK(parse({all.substr(0, cut), all.substr(cut)}) == expected);
    }
    std::vector<std::string_view> bytes;
    for (std::size_t i = 0; i < stream.size(); ++i) bytes.push_back(std::string_view(stream).substr(i, 1));
    CHECK(parse(bytes) == expected);
}

TEST_CASE("an endless event is refused") {
    SseParser parser([](std::string_view, std::string_view) {});
    const std::string piece(1 << 20, 'x');
    CHECK_THROWS_AS([&] { for (int i = 0; i < 70; ++i) parser.feed(piece); }(), glmd::CliError);
}
