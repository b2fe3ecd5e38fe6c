// The probes give figures that can be; how right they are only an idle machine would tell.
#include "kernels/probe.h"

#include <catch2/catch.hpp>

#include "kernels/backend.h"

using namespace glmd;

TEST_CASE("probe: memory is read, and given back") {
    MemoryProbe small(2, 1);  // less than a piece each isn't possible
    CHECK(small.bytes() < (std::size_t(64) << 20));
    CHECK(small.bandwidth() > 1e8);
    CHECK(small.bandwidth() < 1e13);
}

TEST_CASE("probe: every way to multiply runs, and wider ones are faster than plain numbers") {
    const auto loops = int8_loops();
    REQUIRE(loops.back() == "scalar");
    for (const std::string& loop : loops) {
        INFO(loop);
        CHECK(int8_rate(loop, 2) > 1e6);
    }
    if (loops.size() > 1) CHECK(int8_rate(loops.front(), 1) > int8_rate("scalar", 1));
    CHECK_THROWS_AS(int8_rate("abacus", 1), BackendError);
}
