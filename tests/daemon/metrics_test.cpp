#include <catch2/catch.hpp>

#include <thread>

#include "daemon/metrics.h"

using namespace glmd;

TEST_CASE("a histogram counts each observation in the first bucket that it fits") {
    Histogram histogram;
    histogram.observe(0.0001);
    histogram.observe(0.00011);
    histogram.observe(0.3);
    histogram.observe(1000);
    CHECK(histogram.bucket(0) == 1);
    CHECK(histogram.bucket(1) == 1);
    CHECK(histogram.bucket(11) == 1);
    CHECK(histogram.bucket(Histogram::bounds.size()) == 1);
    CHECK(histogram.sum() == Approx(1000.30021));

    MetricsText text;
    text.family("x_seconds", "histogram", "Help.");
    text.histogram({{"class", "flex"}}, histogram);
    const std::string said = text.take();
    CHECK(said.find("# HELP x_seconds Help.\n# TYPE x_seconds histogram\nx_seconds_bucket{class=\"flex\",le=\"0.0001\"} 1\n") == 0);
    CHECK(said.find("x_seconds_bucket{class=\"flex\",le=\"0.25\"} 2\nx_seconds_bucket{class=\"flex\",le=\"0.5\"} 3\n") != said.npos);
    CHECK(said.find("x_seconds_bucket{class=\"flex\",le=\"+Inf\"} 4\nx_seconds_sum{class=\"flex\"} 1000.30021\nx_seconds_count{class=\"flex\"} 4\n") != said.npos);
}

TEST_CASE("labels are escaped, and may be absent") {
    MetricsText text;
    text.family("a", "gauge", "A.");
    text.sample({}, 0.5);
    text.sample({{"model", "a\"b\\c\nd"}, {"x", ""}}, 3);
    CHECK(text.take() == "# HELP a A.\n# TYPE a gauge\na 0.5\na{model=\"a\\\"b\\\\c\\nd\",x=\"\"} 3\n");
}

TEST_CASE("threads may observe at once, and nothing is lost") {
    Histogram histogram;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&] {
            for (int n = 0; n < 10000; ++n) histogram.observe(0.002);
        });
    for (std::thread& t : threads) t.join();
    CHECK(histogram.bucket(4) == 40000);
    CHECK(histogram.sum() == Approx(80));
}
