// The books of the KV cache against a model of them: what every block holds is written down beside it, as the whole text
// that leads to each of its tokens, and whatever is found must hold what it was found for.
#include "engine/kv_cache.h"

#include <catch2/catch.hpp>
#include <cstdio>
#include <list>
#include <random>

using namespace glmd;

namespace {

const KvScope alice{1000, ""}, bob{1001, ""}, alices_app{1000, "app"};

std::vector<TokenId> text(int from, int count) {
    std::vector<TokenId> t;
    for (int i = 0; i < count; ++i) t.push_back(from + i);
    return t;
}

/// A sequence that ran and ended: its tokens stay behind.
void leave_behind(KvCache& cache, const KvScope& scope, const std::vector<TokenId>& tokens) {
    std::vector<std::int32_t> blocks;
    REQUIRE(cache.take((static_cast<int>(tokens.size()) + kv_block_tokens - 1) / kv_block_tokens, blocks));
    cache.keep(scope, tokens, blocks);
    cache.check();
}

/// How many tokens would be found; gives everything back.
int found(KvCache& cache, const KvScope& scope, const std::vector<TokenId>& tokens) {
    std::vector<std::int32_t> blocks;
    const KvCache::Hit hit = cache.find(scope, tokens, blocks);
    cache.check();
    if (hit.copy_from >= 0) cache.give_back(hit.copy_from);
    cache.give_back(blocks);
    cache.check();
    return hit.tokens + hit.copy_tokens;
}

}  // namespace

TEST_CASE("KV cache: the longest beginning is found, by its tokens") {
    KvCache cache(16);
    leave_behind(cache, alice, text(0, 100));
    CHECK(cache.cached() == 4);
    CHECK(cache.available() == 16);
    CHECK(found(cache, alice, text(0, 100)) == 100);
    CHECK(found(cache, alice, text(0, 300)) == 100);
    CHECK(found(cache, alice, text(0, 70)) == 70);
    CHECK(found(cache, alice, text(1, 100)) == 0);
    std::vector<TokenId> other = text(0, 100);
    other[40] = 999;
    CHECK(found(cache, alice, other) == 40);
    other = text(0, 100);
    other[0] = 999;
    CHECK(found(cache, alice, other) == 0);
}

TEST_CASE("KV cache: nothing is found across identities") {
    KvCache cache(16);
    leave_behind(cache, alice, text(0, 64));
    CHECK(found(cache, bob, text(0, 64)) == 0);
    CHECK(found(cache, alices_app, text(0, 64)) == 0);
    leave_behind(cache, bob, text(0, 64));
    CHECK(cache.cached() == 4);
    CHECK(found(cache, bob, text(0, 64)) == 64);
}

TEST_CASE("KV cache: what a running sequence has filled is shared, and outlives it") {
    KvCache cache(8);
    std::vector<std::int32_t> first, second;
    REQUIRE(cache.take(3, first));
    cache.share(alice, text(0, 80), first);  // two full blocks and a half
    cache.check();
    const KvCache::Hit hit = cache.find(alice, text(0, 79), second);
    CHECK(hit.tokens == 64);
    CHECK(hit.copy_from == -1);  // the half one may still change
    CHECK(second == std::vector<std::int32_t>{first[0], first[1]});
    cache.give_back(first);
    cache.check();
    CHECK(cache.available() == 6);
    CHECK(cache.cached() == 0);
    cache.give_back(second);
    CHECK(cache.available() == 8);
    CHECK(cache.cached() == 2);
    CHECK(found(cache, alice, text(0, 80)) == 64);
}

TEST_CASE("KV cache: a partly right block is copied, and can't be taken meanwhile") {
    KvCache cache(3);
    leave_behind(cache, alice, text(0, 50));
    std::vector<std::int32_t> blocks;
    const KvCache::Hit hit = cache.find(alice, text(0, 45), blocks);
    CHECK(hit.tokens == 32);
    CHECK(hit.copy_tokens == 13);
    std::vector<std::int32_t> more;
    CHECK_FALSE(cache.take(2, more));
    REQUIRE(cache.take(1, more));
    CHECK(more[0] != hit.copy_from);
    cache.give_back(hit.copy_from);
    cache.give_back(more);
    cache.give_back(blocks);
    cache.check();
    CHECK(found(cache, alice, text(0, 50)) == 50);
}

TEST_CASE("KV cache: a text that goes on replaces its shorter self") {
    KvCache cache(8);
    leave_behind(cache, alice, text(0, 40));
    leave_behind(cache, alice, text(0, 60));
    CHECK(cache.cached() == 2);
    leave_behind(cache, alice, text(0, 50));
    CHECK(cache.cached() == 2);
    leave_behind(cache, alice, text(0, 70));
    CHECK(cache.cached() == 3);
    CHECK(found(cache, alice, text(0, 70)) == 70);
}

TEST_CASE("KV cache: the least recently used goes first, ends before beginnings") {
    KvCache cache(4);
    leave_behind(cache, alice, text(0, 64));
    leave_behind(cache, bob, text(0, 64));
    CHECK(found(cache, alice, text(0, 64)) == 64);  // now bob's are older
    std::vector<std::int32_t> blocks;
    SECTION("one") {
        REQUIRE(cache.take(1, blocks));
        CHECK(found(cache, bob, text(0, 64)) == 32);
        CHECK(found(cache, alice, text(0, 64)) == 64);
    }
    SECTION("both") {
        REQUIRE(cache.take(2, blocks));
        CHECK(found(cache, bob, text(0, 64)) == 0);
        CHECK(found(cache, alice, text(0, 64)) == 64);
        CHECK_FALSE(cache.take(3, blocks));
        REQUIRE(cache.take(2, blocks));
        CHECK(found(cache, alice, text(0, 64)) == 0);
    }
    cache.give_back(blocks);
    CHECK(cache.available() == 4);
    cache.check();
}

TEST_CASE("KV cache: a random life against a model of it") {
    struct Sequence {
        KvScope scope;
        std::vector<TokenId> tokens;  // of which the blocks hold all
        std::vector<std::int32_t> blocks;
    };
    long reused = 0, copied = 0, asked = 0;
    for (int seed = 1; seed <= 300; ++seed) {
        std::mt19937 random(seed);
        auto between = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
        const int total = between(4, 40);
        KvCache cache(total);
        const std::vector<KvScope> scopes{alice, bob, alices_app};
        // What is in a slot: everything that led to it.
        using Content = std::pair<KvScope, std::vector<TokenId>>;
        std::vector<std::array<Content, kv_block_tokens>> memory(total);
        auto write = [&](Sequence& s, int from) {
            for (int i = from; i < static_cast<int>(s.tokens.size()); ++i)
                memory[s.blocks[i / kv_block_tokens]][i % kv_block_tokens] = {s.scope, {s.tokens.begin(), s.tokens.begin() + i + 1}};
        };
        auto verify = [&](const Sequence& s) {
            for (int i = 0; i < static_cast<int>(s.tokens.size()); ++i) {
                const Content& c = memory[s.blocks[i / kv_block_tokens]][i % kv_block_tokens];
                if (c.first != s.scope || !std::equal(c.second.begin(), c.second.end(), s.tokens.begin(), s.tokens.begin() + i + 1)) return false;
            }
            return true;
        };
        // Few texts, which branch: most tokens are what a text says at that place.
        auto token = [&](int which, int i) { return between(0, 150) ? which * 1000 + i / 20 : between(0, 3); };
        std::list<Sequence> running;
        for (int event = 0; event < 200; ++event) {
            const int what = between(0, 9);
            if (what < 4) {
                Sequence s;
                s.scope = scopes[between(0, 2)];
                const int which = between(0, 2), length = between(1, kv_block_tokens * std::min(total, 8));
                for (int i = 0; i < length; ++i) s.tokens.push_back(token(which, i));
                const int wanted = (length + kv_block_tokens - 1) / kv_block_tokens;
                const KvCache::Hit hit = cache.find(s.scope, std::span(s.tokens).first(length - 1), s.blocks);
                cache.check();
                REQUIRE(hit.tokens == static_cast<int>(s.blocks.size()) * kv_block_tokens);
                asked += length;
                if (!cache.take(wanted - static_cast<int>(s.blocks.size()), s.blocks)) {
                    if (hit.copy_from >= 0) cache.give_back(hit.copy_from);
                    cache.give_back(s.blocks);
                    cache.check();
                    continue;
                }
                if (hit.copy_from >= 0) {
                    memory[s.blocks[hit.tokens / kv_block_tokens]] = memory[hit.copy_from];
                    cache.give_back(hit.copy_from);
                }
                reused += hit.tokens, copied += hit.copy_tokens;
                write(s, hit.tokens + hit.copy_tokens);
                REQUIRE(verify(s));
                running.push_back(std::move(s));
            } else if (!running.empty()) {
                auto at = std::next(running.begin(), between(0, static_cast<int>(running.size()) - 1));
                if (what < 6) {  // an answer grows
                    const int before = static_cast<int>(at->tokens.size());
                    const int which = at->tokens[0] / 1000;
                    for (int i = 0, n = between(1, 40); i < n; ++i) at->tokens.push_back(token(which, before + i));
                    const int wanted = (static_cast<int>(at->tokens.size()) + kv_block_tokens - 1) / kv_block_tokens;
                    if (cache.take(wanted - static_cast<int>(at->blocks.size()), at->blocks)) write(*at, before);
                    else at->tokens.resize(before);
                } else if (what < 7) {
                    cache.share(at->scope, at->tokens, at->blocks);
                } else {
                    REQUIRE(verify(*at));
                    if (between(0, 3)) cache.keep(at->scope, at->tokens, at->blocks);
                    else cache.give_back(at->blocks);
                    running.erase(at);
                }
            } else if (what == 9) {
                cache.clear();
                CHECK(cache.cached() == 0);
            }
            cache.check();
        }
        for (Sequence& s : running) {
            REQUIRE(verify(s));
            cache.give_back(s.blocks);
        }
        cache.check();
        CHECK(cache.available() == total);
        cache.clear();
        cache.check();
        CHECK(cache.cached() == 0);
        CHECK(cache.available() == total);
    }
    CHECK(reused > 1000);
    CHECK(copied > 1000);
    std::printf("of %ld tokens %ld were found in full blocks, %ld copied\n", asked, reused, copied);
}
