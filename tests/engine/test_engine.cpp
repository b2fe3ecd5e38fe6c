// The engine's thread with tiny models of the reference data, converted here: what is reused, paused, computed again or
// run beside others must give the very same tokens as a request that has an engine to itself.
#include "engine/engine.h"

#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "engine/checkpoint/convert.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

/// A converted model in a folder of its own, gone at the end.
struct TinyModel {
    fs::path folder;
    std::string gguf;
    explicit TinyModel(const std::string& family, const std::string& checkpoint = "fp16", const std::string& config = "")
        : folder(fs::temp_directory_path() / ("glmd-engine-" + family + std::to_string(::getpid()))) {
        fs::create_directories(folder);
        const fs::path golden = fs::path(GLMD_TEST_DATA "/golden") / family;
        ConvertOptions convert;
        convert.input = golden / checkpoint;
        if (!config.empty()) convert.config = golden / config;
        convert.output = gguf = folder / "model.gguf";
        convert_checkpoint(convert);
    }
    ~TinyModel() { fs::remove_all(folder); }
    std::unique_ptr<Engine> start(const std::function<void(EngineOptions&)>& change = {}) const {
        EngineOptions o;
        o.precision = Precision::exact;
        o.context = 192;
        o.max_sequences = 4;
        o.prefill_rows = 16;
        o.cpu.threads = 1;
        o.cache_directory = folder / "cache";
        if (change) change(o);
        return make_engine(gguf, o);
    }
};

/// Collects what becomes of a request.
struct Client {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<TokenId> ids;
    std::vector<int> positions;
    std::string text;
    Usage usage;
    FinishReason reason = FinishReason::error;
    bool finished = false, held = false;  // held: the engine's thread waits at the next token
    std::unique_ptr<Generation> generation;

    SubmitError submit(Engine& engine, GenerationRequest request, int* retry_after = nullptr) {
        GenerationSink sink;
        sink.on_text = [this](std::string t) {
            std::lock_guard lock(mutex);
            text += t;
            changed.notify_all();
        };
        sink.on_token = [this](const SampledToken& token) {
            std::unique_lock lock(mutex);
            ids.push_back(token.id);
            changed.notify_all();
            changed.wait(lock, [this] { return !held; });
        };
        sink.on_queue = [this](int position) {
            std::lock_guard lock(mutex);
            positions.push_back(position);
            changed.notify_all();
        };
        sink.on_finish = [this](FinishReason r, Usage u, std::string) {
            std::lock_guard lock(mutex);
            reason = r, usage = u, finished = true;
            changed.notify_all();
        };
        Engine::Submitted s = engine.submit(std::move(request), std::move(sink));
        generation = std::move(s.generation);
        if (retry_after) *retry_after = s.retry_after_s;
        return s.error;
    }
    void wait(const std::function<bool()>& until) {
        std::unique_lock lock(mutex);
        REQUIRE(changed.wait_for(lock, std::chrono::seconds(60), until));
    }
    void wait() { wait([this] { return finished; }); }
};

GenerationRequest request(std::vector<TokenId> prompt, int max_tokens, std::uint64_t seed, std::uint32_t uid) {
    GenerationRequest r;
    r.uid = uid;
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.sampling.temperature = 1;
    r.sampling.top_p = 1;
    r.sampling.seed = seed;
    return r;
}

/// To the end; every call is another user unless told, so that nothing is reused.
std::unique_ptr<Client> ask(Engine& engine, GenerationRequest r) {
    auto c = std::make_unique<Client>();
    REQUIRE(c->submit(engine, std::move(r)) == SubmitError::none);
    c->wait();
    return c;
}

std::vector<TokenId> random_tokens(std::mt19937& random, int count) {
    std::vector<TokenId> t;
    for (int i = 0; i < count; ++i) t.push_back(std::uniform_int_distribution<int>(10, 600)(random));
    return t;
}

/// In memory, and it wants everything.
struct Shelf final : KvShelf {
    struct Entry {
        KvScope scope;
        std::string session, kind;
        std::shared_ptr<KvImage> image;
    };
    std::vector<Entry> entries;
    bool busy() const override { return false; }
    bool wants(const KvScope&, const std::string&, const std::string&, int, std::size_t, double) override { return true; }
    void put(const KvScope& scope, const std::string& session, const std::string& kind, std::vector<TokenId> tokens,
             std::vector<std::byte> blocks) override {
        auto image = std::make_shared<KvImage>();
        auto bytes = std::make_shared<std::vector<std::byte>>(std::move(blocks));
        *image = {std::move(tokens), *bytes, bytes};
        entries.push_back({scope, session, kind, image});
    }
};

}  // namespace

TEST_CASE("engine: a session goes on from the shelf, in another engine, with the same tokens") {
    const TinyModel model("chatglm3");
    std::mt19937 random(4);
    const auto shelf = std::make_shared<Shelf>();
    const auto on_shelf = [&](EngineOptions& o) { o.shelf = shelf; };
    auto said = random_tokens(random, 90);
    std::vector<TokenId> expected;
    {
        const auto engine = model.start(on_shelf);
        GenerationRequest r = request(said, 20, 7, 1000);
        r.session = "s";
        const auto first = ask(*engine, r);
        said.insert(said.end(), first->ids.begin(), first->ids.end());
        ask(*engine, request(random_tokens(random, 90), 20, 7, 1000));  // without a name: never
    }
    REQUIRE(shelf->entries.size() == 1);
    const Shelf::Entry entry = shelf->entries[0];
    CHECK(entry.scope == KvScope(1000, ""));
    CHECK(entry.session == "s");
    REQUIRE(entry.image->tokens.size() == said.size() - 1);
    CHECK(std::equal(entry.image->tokens.begin(), entry.image->tokens.end(), said.begin()));

    const auto more = random_tokens(random, 5);
    said.insert(said.end(), more.begin(), more.end());
    const auto engine = model.start(on_shelf);
    CHECK(engine->model().kv_kind == entry.kind);
    expected = ask(*engine, request(said, 20, 9, 1001))->ids;
    GenerationRequest r = request(said, 20, 9, 1000);
    r.image = entry.image;
    const auto resumed = ask(*engine, r);
    CHECK(resumed->ids == expected);
    CHECK(resumed->usage.cached_tokens == static_cast<int>(entry.image->tokens.size()));
    CHECK(engine->status().resumed_tokens == entry.image->tokens.size());

    // Another beginning: nothing of it is taken but what is the same.
    auto other = said;
    other[40] += 1;
    const auto alone = ask(*engine, request(other, 20, 9, 1002));
    r = request(other, 20, 9, 1003);
    r.image = entry.image;
    const auto mixed = ask(*engine, r);
    CHECK(mixed->ids == alone->ids);
    CHECK(mixed->usage.cached_tokens == 40);
}

TEST_CASE("engine: a bidirectional prompt never gets to the shelf") {
    const TinyModel model("chatglm1");
    std::mt19937 random(5);
    const auto shelf = std::make_shared<Shelf>();
    GenerationRequest r = request(random_tokens(random, 100), 8, 1, 1000);
    r.session = "s";
    ask(*model.start([&](EngineOptions& o) { o.shelf = shelf; }), r);
    CHECK(shelf->entries.empty());
}

TEST_CASE("engine: a request that hasn't started in time ends") {
    const TinyModel model("chatglm3");
    const auto engine = model.start([](EngineOptions& o) { o.max_sequences = 1; o.spare_sequences = 0; });
    std::mt19937 random(6);
    Client running, late;
    running.held = true;
    REQUIRE(running.submit(*engine, request(random_tokens(random, 20), 60, 1, 1000)) == SubmitError::none);
    running.wait([&] { return !running.ids.empty(); });
    GenerationRequest r = request(random_tokens(random, 20), 4, 1, 1000);
    r.start_by = std::chrono::steady_clock::now();
    REQUIRE(late.submit(*engine, r) == SubmitError::none);
    {
        std::lock_guard lock(running.mutex);
        running.held = false;
        running.changed.notify_all();
    }
    late.wait();
    CHECK(late.reason == FinishReason::deadline);
    CHECK(late.ids.empty());
    running.wait();
    CHECK(running.reason != FinishReason::deadline);
}

TEST_CASE("engine: what is reused gives the same tokens as what is computed") {
    const TinyModel model("chatglm3");
    const auto engine = model.start();
    std::mt19937 random(1);
    std::uint32_t stranger = 5000;
    int reused = 0;
    for (int round = 0; round < 30; ++round) {
        // A conversation: each turn's prompt is all that was said, and something new.
        std::vector<TokenId> said = random_tokens(random, 1 + random() % 40);
        int known = 0;
        for (int turn = 0; turn < 3; ++turn) {
            const std::uint64_t seed = random();
            const auto mine = ask(*engine, request(said, 8 + seed % 20, seed, 1000));
            const auto alone = ask(*engine, request(said, 8 + seed % 20, seed, stranger++));
            CHECK(mine->ids == alone->ids);
            CHECK(alone->usage.cached_tokens == 0);
            CHECK(mine->usage.cached_tokens >= known);
            CHECK(mine->usage.cached_tokens < mine->usage.prompt_tokens);
            reused += mine->usage.cached_tokens;
            said.insert(said.end(), mine->ids.begin(), mine->ids.end());
            known = static_cast<int>(said.size()) - 1;  // the last token was never fed
            const auto more = random_tokens(random, 1 + random() % 10);
            said.insert(said.end(), more.begin(), more.end());
        }
    }
    CHECK(reused > 1000);
    CHECK(engine->status().cached_tokens == static_cast<std::uint64_t>(reused));
    CHECK(engine->status().kv_blocks_used == 0);
    CHECK(engine->status().kv_blocks_cached > 0);
}

TEST_CASE("engine: nothing is reused across users, nor across a user's tenants") {
    const TinyModel model("chatglm3");
    const auto engine = model.start();
    std::mt19937 random(2);
    const auto prompt = random_tokens(random, 100);
    CHECK(ask(*engine, request(prompt, 4, 1, 1000))->usage.cached_tokens == 0);
    CHECK(ask(*engine, request(prompt, 4, 1, 1001))->usage.cached_tokens == 0);
    GenerationRequest r = request(prompt, 4, 1, 1000);
    r.tenant = "app";
    CHECK(ask(*engine, std::move(r))->usage.cached_tokens == 0);
    CHECK(ask(*engine, request(prompt, 4, 1, 1000))->usage.cached_tokens == 99);
}

TEST_CASE("engine: a prompt that sees itself in both directions is never reused") {
    const TinyModel model("chatglm1");
    const auto engine = model.start();
    std::mt19937 random(3);
    const auto prompt = random_tokens(random, 100);
    const auto first = ask(*engine, request(prompt, 8, 1, 1000));
    const auto second = ask(*engine, request(prompt, 8, 1, 1000));
    CHECK(second->usage.cached_tokens == 0);
    CHECK(first->ids == second->ids);
    CHECK(engine->status().kv_blocks_cached == 0);
}

TEST_CASE("engine: a request says the same whatever else runs") {
    for (const std::string& family : {std::string("chatglm3"), std::string("chatglm1")}) {
        const TinyModel model(family);
        // Alone, in a roomy engine whose prompts go through at once.
        std::vector<GenerationRequest> requests;
        std::vector<std::vector<TokenId>> expected;
        std::mt19937 random(4);
        {
            const auto roomy = model.start([](EngineOptions& o) { o.prefill_rows = 256, o.draft_tokens = 0; });
            const auto common = random_tokens(random, 70);  // what many of them begin with
            for (int i = 0; i < 60; ++i) {
                std::vector<TokenId> prompt;
                if (i % 3) prompt.assign(common.begin(), common.begin() + 20 + random() % 50);
                const auto rest = random_tokens(random, 1 + random() % 80);
                prompt.insert(prompt.end(), rest.begin(), rest.end());
                GenerationRequest r = request(prompt, 1 + static_cast<int>(random() % 40), random(), 3000 + i);
                expected.push_back(ask(*roomy, r)->ids);
                r.uid = 1000 + i % 3;
                r.service_class = static_cast<ServiceClass>(i % 7 == 0 ? 0 : i % 2 ? 1 : 2);
                requests.push_back(r);
            }
        }
        // Together, in little memory: 8 blocks of 32 tokens; and with the weights left on disk.
        for (const auto& [prefill_rows, weights] : {std::pair{7, WeightsMode::resident}, {64, WeightsMode::resident}, {7, WeightsMode::stream}}) {
            const auto crowded = model.start([&, rows = prefill_rows, mode = weights](EngineOptions& o) {
                o.prefill_rows = rows;
                o.weights = mode;
                o.kv_bytes = 1;
                o.draft_always = true;
            });
            std::vector<std::unique_ptr<Client>> clients;
            for (const GenerationRequest& r : requests) {
                clients.push_back(std::make_unique<Client>());
                REQUIRE(clients.back()->submit(*crowded, r) == SubmitError::none);
                if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 5));
                if (random() % 5 == 0) clients.back()->generation->cancel();
            }
            int compared = 0, reused = 0;
            for (std::size_t i = 0; i < clients.size(); ++i) {
                clients[i]->wait();
                INFO(family << " " << prefill_rows << " " << name(weights) << " " << i);
                CHECK(clients[i]->reason != FinishReason::error);
                const auto& ids = clients[i]->ids;
                CHECK(std::equal(ids.begin(), ids.end(), expected[i].begin(), expected[i].begin() + std::min(ids.size(), expected[i].size())));
                if (clients[i]->reason == FinishReason::cancelled) continue;
                CHECK(ids.size() == expected[i].size());
                ++compared;
                reused += clients[i]->usage.cached_tokens;
            }
            CHECK(compared > 30);
            CHECK((reused > 0) == (family == "chatglm3"));
            const EngineStatus s = crowded->status();
            CHECK(s.kv_blocks_used == 0);
            CHECK(s.pauses > 0);
            CHECK((s.running == 0 && s.queued == 0));
        }
    }
}

TEST_CASE("engine: who waits is told the place, and too many are refused with a time") {
    const TinyModel model("chatglm3");
    const auto engine = model.start([](EngineOptions& o) {
        o.max_sequences = 1;
        o.spare_sequences = 0;
        o.max_queue = 4;
        o.max_queue_per_uid = 3;
    });
    std::mt19937 random(5);
    // One that runs for long: with this seed no end token comes early.
    const auto prompt = random_tokens(random, 20);
    std::uint64_t seed = 1;
    while (ask(*engine, request(prompt, 170, seed, 999))->reason != FinishReason::length && seed < 50) ++seed;
    Client first, waiting[3], fourth, other, last;
    first.held = true;
    REQUIRE(first.submit(*engine, request(prompt, 170, seed, 1000)) == SubmitError::none);
    first.wait([&] { return !first.ids.empty(); });
    for (Client& c : waiting) REQUIRE(c.submit(*engine, request(random_tokens(random, 20), 5, 1, 1000)) == SubmitError::none);
    int retry = 0;
    CHECK(fourth.submit(*engine, request(prompt, 5, 1, 1000), &retry) == SubmitError::quota_exceeded);
    CHECK(retry >= 1);
    CHECK(engine->check(1000, 20).error == SubmitError::quota_exceeded);
    REQUIRE(other.submit(*engine, request(prompt, 5, 1, 1001)) == SubmitError::none);
    CHECK(last.submit(*engine, request(prompt, 5, 1, 1002), &retry) == SubmitError::queue_full);
    CHECK(engine->status().queued == 4);
    CHECK(engine->status().queued_by_class[index(ServiceClass::normal)] == 4);
    {
        std::lock_guard lock(first.mutex);
        first.held = false;
        first.changed.notify_all();
    }
    for (Client* c : {&waiting[0], &waiting[1], &waiting[2], &other}) {
        c->wait();
        CHECK(c->positions.size() >= 2);
        CHECK(c->positions.front() >= 1);
        CHECK(c->positions.back() == 0);
    }
    // It is somebody else's turn before one user's third.
    CHECK(other.usage.queue_s < waiting[2].usage.queue_s);
    first.wait();
    CHECK(engine->check(1000, 10).error == SubmitError::none);
    CHECK(engine->status().queued == 0);
}

// Speculation. Token ids are favoured by a bias, so that a tiny random model repeats itself and guesses are right now and then.

namespace {

GenerationRequest repetitive(std::mt19937& random, int max_tokens, std::uint64_t seed, std::uint32_t uid, float bias = 5) {
    std::vector<TokenId> words, prompt;
    for (int i = 0; i < 4; ++i) words.push_back(std::uniform_int_distribution<int>(10, 560)(random));
    for (int i = 0; i < 40; ++i) prompt.push_back(words[random() % words.size()]);
    GenerationRequest r = request(prompt, max_tokens, seed, uid);
    for (const TokenId id : std::set<TokenId>(words.begin(), words.end())) r.sampling.logit_bias.emplace_back(id, bias);
    return r;
}

void guess_always(EngineOptions& o) { o.draft_always = true, o.context = 128; }
void never_guess(EngineOptions& o) { o.draft_tokens = 0, o.context = 128; }

}  // namespace

TEST_CASE("engine: guessing ahead changes no token, greedy or drawn, alone or beside others") {
    for (const auto& [family, folder] : {std::pair("chatglm3", "fp16"), {"chatglm1", "fp16"}, {"glm4_hf", "model"}, {"glm", "hf"}}) {
        const TinyModel model(family, folder);
        std::mt19937 random(11);
        std::vector<GenerationRequest> requests;
        std::vector<std::unique_ptr<Client>> expected;
        const auto plain = model.start(never_guess);
        for (int i = 0; i < 24; ++i) {
            GenerationRequest r = repetitive(random, 20 + i, 100 + i, 1000 + i);
            if (i % 3 == 0) r.sampling.temperature = 0, r.sampling.logit_bias.clear();
            if (i % 4 == 1) r.sampling.repetition_penalty = 1.1f, r.sampling.frequency_penalty = 0.2f, r.sampling.top_p = 0.9f;
            if (i % 5 == 2) r.sampling.ignore_eos = true;
            requests.push_back(r);
            expected.push_back(ask(*plain, r));
            if (i % 6 == 4 && expected.back()->text.size() > 8) {  // ends in the middle, across tokens
                requests.back().stop = {"never said", expected.back()->text.substr(expected.back()->text.size() / 2, 5)};
                expected.back() = ask(*plain, requests.back());
                CHECK(expected.back()->reason == FinishReason::stop);
            }
        }
        CHECK(plain->status().drafted_tokens == 0);
        const auto guessing = model.start(guess_always);
        int drafted = 0, accepted = 0;
        const auto compare = [&](const Client& c, std::size_t i) {
            INFO(family << " " << i);
            CHECK(c.ids == expected[i]->ids);
            CHECK(c.text == expected[i]->text);
            CHECK(c.reason == expected[i]->reason);
            CHECK(c.usage.completion_tokens == expected[i]->usage.completion_tokens);
            drafted += c.usage.drafted_tokens, accepted += c.usage.accepted_tokens;
        };
        for (std::size_t i = 0; i < requests.size(); ++i) compare(*ask(*guessing, requests[i]), i);
        std::vector<std::unique_ptr<Client>> together;
        for (GenerationRequest r : requests) {
            r.uid += 1000;
            together.push_back(std::make_unique<Client>());
            REQUIRE(together.back()->submit(*guessing, r) == SubmitError::none);
        }
        for (std::size_t i = 0; i < requests.size(); ++i) {
            together[i]->wait();
            compare(*together[i], i);
        }
        CHECK(accepted > 40);
        CHECK(drafted > accepted + 100);
        const EngineStatus s = guessing->status();
        CHECK(s.drafted_tokens == static_cast<std::uint64_t>(drafted));
        CHECK(s.accepted_tokens == static_cast<std::uint64_t>(accepted));
        CHECK(s.kv_blocks_used == 0);

        GenerationRequest off = requests[1];
        off.speculate = false;
        CHECK(ask(*guessing, off)->usage.drafted_tokens == 0);
    }
}

TEST_CASE("engine: guessing ahead changes no greedy answer to upstream's prompts, whatever they see of themselves") {
    namespace json = boost::json;
    for (const auto& [family, checkpoint, config] : {std::array{"glm130b", "sat_mp1", "model_config.json"}, {"glm", "hf", ""}, {"chatglm1", "fp16", ""}}) {
        const TinyModel model(family, checkpoint, config);
        const auto plain = model.start(never_guess), guessing = model.start(guess_always);
        std::ifstream file(std::string(GLMD_TEST_DATA "/golden/") + family + "/cases.json");
        const json::value recorded = json::parse(std::string{std::istreambuf_iterator<char>(file), {}});
        int answers = 0, accepted = 0, rejected = 0, upstreams = 0;
        for (const json::value& c : recorded.at("cases").as_array()) {
            if (c.at("input_ids").as_array()[0].is_array()) continue;  // a padded batch
            const auto prompt = json::value_to<std::vector<TokenId>>(c.at("input_ids"));
            if (static_cast<int>(prompt.size()) + 24 > plain->model().context) continue;
            INFO(family << " " << c.at("id").as_string().c_str());
            GenerationRequest r = request(prompt, plain->model().context - static_cast<int>(prompt.size()), 1, 1000);
            r.sampling.temperature = 0;
            r.sampling.ignore_eos = true;
            const auto expected = ask(*plain, r), guessed = ask(*guessing, r);
            CHECK(guessed->ids == expected->ids);
            ++answers;
            accepted += guessed->usage.accepted_tokens, rejected += guessed->usage.drafted_tokens - guessed->usage.accepted_tokens;
            // Upstream's own answer, until two ids are as likely there or it ends.
            const json::value& greedy = c.at("greedy");
            for (std::size_t i = 0; i + 1 < greedy.at("ids").as_array().size() && greedy.at("step_margins").at(i).to_number<double>() > 1e-3; ++i, ++upstreams)
                CHECK(guessed->ids[i] == greedy.at("ids").at(i).as_int64());
        }
        INFO(family << ": " << answers << " answers, " << accepted << " guesses right, " << rejected << " wrong, " << upstreams << " tokens as recorded");
        CHECK(answers >= 9);
        CHECK(accepted > 50);
        CHECK(rejected > 50);
        CHECK(upstreams > 100);
    }
}

TEST_CASE("engine: what wrong guesses left in the KV cache is never reused") {
    const TinyModel model("chatglm3");
    const auto plain = model.start(never_guess);
    for (const std::size_t kv_bytes : {std::size_t(0), std::size_t(1)}) {  // roomy, and so little that sequences are paused
        const auto guessing = model.start([&](EngineOptions& o) { guess_always(o), o.kv_bytes = kv_bytes; });
        std::mt19937 random(12);
        int reused = 0, wrong = 0;
        for (int round = 0; round < 12; ++round) {
            // Two conversations at a time, whose turns begin with all that was said.
            std::vector<GenerationRequest> said{repetitive(random, 25, random(), 1000), repetitive(random, 25, random(), 1001)};
            for (int turn = 0; turn < 3; ++turn) {
                std::vector<std::unique_ptr<Client>> clients;
                for (GenerationRequest& r : said) {
                    r.sampling.seed = random();
                    clients.push_back(std::make_unique<Client>());
                    REQUIRE(clients.back()->submit(*guessing, r) == SubmitError::none);
                }
                for (std::size_t i = 0; i < said.size(); ++i) {
                    clients[i]->wait();
                    GenerationRequest alone = said[i];
                    alone.uid = 5000 + static_cast<std::uint32_t>(random() % 1000000);
                    CHECK(clients[i]->ids == ask(*plain, alone)->ids);
                    reused += clients[i]->usage.cached_tokens;
                    wrong += clients[i]->usage.drafted_tokens - clients[i]->usage.accepted_tokens;
                    said[i].prompt.insert(said[i].prompt.end(), clients[i]->ids.begin(), clients[i]->ids.end());
                    if (random() % 2) said[i].prompt.push_back(said[i].prompt[random() % 40]);
                }
            }
        }
        CHECK(reused > 500);
        CHECK(wrong > 500);
        CHECK(guessing->status().kv_blocks_used == 0);
    }
}

TEST_CASE("engine: guessed tokens follow the same distribution") {
    // Of 3 tokens after a prompt that always gives a guess, by 2,500 seeds with guesses and 2,500 others without: two samples of one
    // distribution, by chi-square.
    const TinyModel model("chatglm3");
    const auto plain = model.start(never_guess), guessing = model.start(guess_always);
    std::mt19937 random(13);
    const GenerationRequest base = repetitive(random, 3, 0, 1000, 12);
    constexpr int draws = 2500;
    std::map<std::vector<TokenId>, std::array<int, 2>> counts;
    int accepted = 0;
    for (int i = 0; i < draws; ++i) {
        GenerationRequest r = base;
        r.sampling.seed = 1 + i;
        const auto guessed = ask(*guessing, r);
        accepted += guessed->usage.accepted_tokens;
        ++counts[guessed->ids][0];
        r.sampling.seed = 100000 + i;
        ++counts[ask(*plain, r)->ids][1];
    }
    CHECK(accepted > draws / 10);
    double chi = 0;
    int classes = 0, rare[2] = {};
    const auto add = [&](double a, double b) { chi += (a - b) * (a - b) / (a + b), ++classes; };
    for (const auto& [ids, n] : counts) {
        if (n[0] + n[1] >= 20) add(n[0], n[1]);
        else rare[0] += n[0], rare[1] += n[1];
    }
    if (rare[0] + rare[1] >= 20) add(rare[0], rare[1]);
    CHECK(classes > 20);
    const double freedom = classes - 1;
    CHECK(chi < freedom + 4 * std::sqrt(2 * freedom));  // fixed seeds: it holds or it doesn't
}

TEST_CASE("engine: a constraint is asked token by token, guessed or not") {
    /// Ids of one parity in turn, then the end.
    struct Parity final : TokenConstraint {
        int vocabulary, count = 0, left = -1;
        std::vector<std::uint64_t> bits;
        explicit Parity(int v) : vocabulary(v) {}
        std::span<const std::uint64_t> mask(int tokens_left) override {
            if (left >= 0) CHECK(tokens_left == left - 1);
            left = tokens_left;
            bits.assign((vocabulary + 63) / 64, count % 2 ? 0xaaaaaaaaaaaaaaaa : 0x5555555555555555);
            return bits;
        }
        void accept(TokenId id) override {
            CHECK(id % 2 == count % 2);
            ++count;
        }
        bool finished() const override { return count == 25; }
    };
    const TinyModel model("chatglm3");
    const auto plain = model.start(never_guess), guessing = model.start(guess_always);
    std::mt19937 random(14);
    int drafted = 0;
    for (int i = 0; i < 10; ++i) {
        GenerationRequest r = repetitive(random, 60, random(), 1000);
        r.sampling.ignore_eos = true;
        r.constraint = std::make_shared<Parity>(plain->model().vocabulary);
        const auto expected = ask(*plain, r);
        r.constraint = std::make_shared<Parity>(plain->model().vocabulary);
        const auto guessed = ask(*guessing, r);
        CHECK(expected->ids.size() == 25);
        CHECK(guessed->ids == expected->ids);
        CHECK(guessed->reason == FinishReason::stop);
        drafted += guessed->usage.drafted_tokens;
    }
    CHECK(drafted > 0);
}

TEST_CASE("engine: answers to one prompt share its keys and values") {
    const TinyModel model("chatglm3");
    const auto engine = model.start();
    std::mt19937 random(15);
    for (const bool leave : {false, true}) {  // the first may leave before its prompt is done
        const auto prompt = random_tokens(random, 100);
        const auto group = std::make_shared<PromptGroup>();
        std::vector<std::unique_ptr<Client>> clients;
        for (int i = 0; i < 4; ++i) {
            GenerationRequest r = request(prompt, 12, 50 + i, 1000);
            r.group = group;
            clients.push_back(std::make_unique<Client>());
            REQUIRE(clients.back()->submit(*engine, r) == SubmitError::none);
            if (i == 0 && leave) clients[0]->generation->cancel();
        }
        for (int i = 0; i < 4; ++i) {
            clients[i]->wait();
            if (i == 0 && leave) continue;
            CHECK(clients[i]->ids == ask(*engine, request(prompt, 12, 50 + i, 2000 + static_cast<std::uint32_t>(random() % 1000)))->ids);
            if (i > 0 && !leave) CHECK(clients[i]->usage.cached_tokens >= 96);
        }
    }
}

TEST_CASE("engine: reuse with the demo model") {
    const char* path = std::getenv("GLMD_DEMO_MODEL");
    if (!path) {
        std::cout << "skipped: GLMD_DEMO_MODEL isn't set\n";
        return;
    }
    for (const Precision precision : {Precision::exact, Precision::fast}) {
        EngineOptions o;
        o.precision = precision;
        o.context = 1024;
        o.prefill_rows = 48;
        o.cache_directory = fs::temp_directory_path() / "glmd-test-cache";
        const auto engine = make_engine(path, o);
        std::vector<ChatMessage> chat{{"user", "Name three rivers of Europe, and say one sentence about each of them."}};
        std::uint32_t stranger = 5000;
        for (int turn = 0; turn < 3; ++turn) {
            const auto prompt = engine->chat_template().render(chat, engine->tokenizer());
            GenerationRequest r = request(prompt, 40, 7 + turn, 1000);
            const auto mine = ask(*engine, r);
            r.uid = stranger++;
            const auto alone = ask(*engine, r);
            CHECK(mine->ids == alone->ids);
            CHECK(mine->text == alone->text);
            CHECK(alone->usage.cached_tokens == 0);
            if (turn > 0) CHECK(mine->usage.cached_tokens > 40);
            std::cout << (precision == Precision::exact ? "exact" : "fast") << ": " << mine->usage.prompt_tokens << " prompt tokens, "
                      << mine->usage.cached_tokens << " reused, prefill " << mine->usage.prefill_s << " s instead of "
                      << alone->usage.prefill_s << " s\n";
            chat.push_back({"assistant", mine->text});
            chat.push_back({"user", "Tell me more about the last one."});
        }
    }
}
