#include "kernels/huge_pages.h"

#include <catch2/catch.hpp>
#include <cstdint>

using namespace glmd;

TEST_CASE("huge pages begin on their border and are zeros") {
    for (const std::size_t bytes : {std::size_t(4096), HugePages::page, 3 * HugePages::page + 4096}) {
        const HugePages pages(bytes);
        REQUIRE(pages.data());
        CHECK(pages.bytes() == bytes);
        CHECK(reinterpret_cast<std::uintptr_t>(pages.data()) % HugePages::page == 0);
        CHECK(pages.data()[0] == std::byte(0));
        pages.data()[bytes - 1] = std::byte(1);
    }
}

TEST_CASE("huge pages that don't exist are null") { CHECK(HugePages(SIZE_MAX / 4 / 4096 * 4096).data() == nullptr); }
