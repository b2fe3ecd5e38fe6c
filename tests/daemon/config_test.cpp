#include <catch2/catch.hpp>

#include "daemon/config.h"

using namespace glmd;

TEST_CASE("a configuration file sets what it names") {
    Config config;
    apply_toml(config, "[server]\nmax_connections = 9\n[engine]\nprecision = \"exact\"\nmemory_budget = \"2G\"\nthreads = 3\n", "a.toml");
    CHECK(config.max_connections == 9);
    CHECK(config.engine.precision == Precision::exact);
    apply_toml(config, "[engine]\nprecision = \"fine\"\n", "b.toml");
    CHECK(config.engine.precision == Precision::fine);
    CHECK_FALSE(config.engine.kv.has_value());
    apply_toml(config, "[engine]\nkv_type = \"int8\"\n", "c.toml");
    CHECK(config.engine.kv == KvType::i8);
    CHECK(config.engine.weights == WeightsMode::automatic);
    apply_toml(config, "[engine]\nweights = \"stream\"\n", "d.toml");
    CHECK(config.engine.weights == WeightsMode::stream);
    CHECK(config.engine.memory_budget == std::size_t(2) << 30);
    CHECK(config.engine.cpu.threads == 3);
}

TEST_CASE("mistakes in a configuration file are named") {
    Config config;
    auto message = [&](const char* text) -> std::string {
        try {
            apply_toml(config, text, "a.toml");
        } catch (const ConfigError& e) {
            return e.what();
        }
        return "";
    };
    CHECK(message("[engine]\nmodle = \"x\"\n") == "a.toml:2: unknown key \"engine.modle\"");
    CHECK(message("[engin]\n").find("unknown section [engin]") != std::string::npos);
    CHECK(message("threads = 1\n").find("unknown key \"threads\"") != std::string::npos);
    CHECK(message("[engine]\nthreads = \"two\"\n").find("engine.threads must be an integer") != std::string::npos);
    CHECK(message("[engine]\nkv_type = \"int4\"\n").find("kv_type must be") != std::string::npos);
    CHECK(message("[engine]\nweights = \"disk\"\n").find("weights must be") != std::string::npos);
    CHECK(message("[engine]\nprecision = \"medium\"\n").find("precision must be") != std::string::npos);
    CHECK(message("[engine\n").find("a.toml:1") != std::string::npos);
}

TEST_CASE("sizes") {
    CHECK(parse_bytes("512M", "x") == 512 << 20);
    CHECK(parse_bytes("1.5GiB", "x") == 3ll << 29);
    CHECK(parse_bytes("17", "x") == 17);
    for (const char* bad : {"", "G", "4X", "-1", "4GG", "nan", "1e40"}) CHECK_THROWS_AS(parse_bytes(bad, "x"), ConfigError);
}

TEST_CASE("arguments win and ranges are checked") {
    const char* good[] = {"glmd", "--config", "/dev/null", "--socket", "/tmp/s", "--state-dir", "/tmp/st", "--model", "/m/x.gguf", "--max-sequences", "3"};
    Config config = read_config(int(std::size(good)), good);
    CHECK(config.socket == "/tmp/s");
    CHECK(config.model_path() == "/m/x.gguf");
    CHECK(config.engine.max_sequences == 3);
    const char* bad[] = {"glmd", "--config", "/dev/null", "--max-sequences", "0"};
    CHECK_THROWS_AS(read_config(int(std::size(bad)), bad), ConfigError);
    const char* unknown[] = {"glmd", "--frobnicate"};
    CHECK_THROWS_AS(read_config(int(std::size(unknown)), unknown), ConfigError);
}

TEST_CASE("tenants") {
    Config config;
    apply_toml(config, "[tenant.kiosk]\nceiling = \"flex\"\nmodels = [\"a\", \"b\"]\nmax_queue = 3\nmax_session_bytes = \"2M\"\n[tenant.b]\nallowed = false\n", "a.toml");
    apply_toml(config, "[tenant.kiosk]\nmax_sequences = 2\n", "b.toml");
    const TenantConfig& kiosk = config.tenant("kiosk");
    CHECK(kiosk.ceiling == ServiceClass::flex);
    CHECK(kiosk.may_use("b"));
    CHECK_FALSE(kiosk.may_use("c"));
    CHECK(kiosk.quota.queue == 3);
    CHECK(kiosk.quota.sequences == 2);
    CHECK(kiosk.max_session_bytes == 2 << 20);
    CHECK_FALSE(config.tenant("b").allowed);
    CHECK(config.tenant("unknown").allowed);
    CHECK(config.tenant("unknown").may_use("c"));
    CHECK(config.tenant("").ceiling == ServiceClass::priority);
    for (const char* bad : {"[tenant]\nallowed = true\n", "[tenant.\"a b\"]\n", "[tenant.\"\"]\n", "[tenant.a]\nceiling = \"high\"\n",
                            "[tenant.a]\nmodels = \"a\"\n", "[tenant.a]\nmodels = [1]\n", "[tenant.a]\nceilin = \"flex\"\n"}) {
        INFO(bad);
        CHECK_THROWS_AS(apply_toml(config, bad, "a.toml"), ConfigError);
    }
    apply_toml(config, "[tenant.kiosk]\nmax_queue = -1\n", "c.toml");
    CHECK_THROWS_WITH(validate(config), Catch::Contains("tenant.kiosk.max_queue"));
}
