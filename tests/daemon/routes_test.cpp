#include <catch2/catch.hpp>

#include "daemon/routes.h"

using namespace glmd;

namespace {

HttpRequest request(const char* method, const char* target) {
    HttpRequest r;
    r.method = method;
    parse_target(target, r);
    return r;
}

int status_of(HttpRequest r, std::string* allow = nullptr) {
    try {
        find_route(r);
    } catch (const HttpError& e) {
        if (allow) *allow = e.allow;
        return e.status;
    }
    return 200;
}

}  // namespace

TEST_CASE("routes") {
    CHECK(status_of(request("GET", "/v1/models")) == 200);
    CHECK(status_of(request("GET", "/v1/models/")) == 200);
    CHECK(status_of(request("GET", "/nowhere")) == 404);
    CHECK(status_of(request("GET", "/v1/conversations/a/items/b/c")) == 404);
    CHECK(status_of(request("GET", "")) == 404);
    CHECK(status_of(request("GET", "*")) == 404);
    std::string allow;
    CHECK(status_of(request("PUT", "/v1/conversations/x"), &allow) == 405);
    CHECK(allow == "GET, POST, DELETE");
    HttpRequest r = request("DELETE", "/v1/conversations/conv_1/items/msg%5f2?after=a+b%26&x");
    find_route(r);
    CHECK(r.path_parameters == std::vector<std::string>{"conv_1", "msg_2"});
    CHECK(r.query["after"] == "a b&");
    CHECK(r.query.contains("x"));
}

TEST_CASE("targets") {
    CHECK(request("GET", "http://localhost/health?deep=1").path == "/health");
    HttpRequest r;
    CHECK_THROWS_AS(parse_target("/%zz", r), HttpError);
}

TEST_CASE("error bodies") {
    HttpResponse response = error_response(HttpError(429, "queue_full", "Too many.", "", 5));
    CHECK(response.status == 429);
    CHECK(response.headers.at(0) == std::pair<std::string, std::string>("retry-after", "5"));
    CHECK(response.body == R"({"error":{"message":"Too many.","type":"rate_limit_error","param":null,"code":"queue_full"}})");
    CHECK(to_http_error(std::make_exception_ptr(QuotaExceeded("full"))).code == "quota_exceeded");
    CHECK(to_http_error(std::make_exception_ptr(std::runtime_error("secret"))).what() != std::string("secret"));
}
