// The converter, on every recorded checkpoint (GLMD_GOLDEN) and on files that lie. Expected tensors are computed here from the
// source by explicit row formulas, not with the converter's own plan.
#include <catch2/catch.hpp>


#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>

#include "engine/chat.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/convert.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/quantize.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/tokenizer_files.h"
#include "engine/checkpoint/torch_zip.h"
#include "kernels/half.h"
#include "tests/engine/error_of.h"
#include "tests/scratch.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

std::string golden() {
    const char* value = std::getenv("GLMD_GOLDEN");
    if (value == nullptr || *value == 0) {
        std::cout << "skipped: GLMD_GOLDEN isn't set\n";
        return {};
    }
    return value;
}

std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE(in);
    return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& path, std::string_view bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    REQUIRE(out);
}

using Floats = std::vector<float>;

/// A source tensor as floats, upstream's integers times their scales. `width`: true columns of an int4 matrix.
Floats source(const Checkpoint& c, const std::string& name, int rank = 0) {
    const auto& t = c.tensor(name, rank);
    Floats out;
    const auto* bytes = reinterpret_cast<const unsigned char*>(t.data.data());
    const auto half = [&](const unsigned char* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); };
    if (t.type == SourceType::i8) {
        const auto* scale = reinterpret_cast<const unsigned char*>(c.tensor(name + "_scale", rank).data.data());
        const bool four = c.config().has("quantization_bit") ? c.config().integer("quantization_bit") == 4 : c.folder().find("int4") != std::string::npos;
        for (std::int64_t r = 0; r < t.shape[0]; ++r)
            for (std::int64_t i = 0; i < t.shape[1]; ++i) {
                const float s = half_to_float(half(scale + 2 * r));
                const int b = static_cast<signed char>(bytes[r * t.shape[1] + i]);
                if (!four) {
                    out.push_back(float(b) * s);
                } else {
                    const int high = (b & 255) / 16, low = (b & 255) % 16;
                    out.push_back(float(high < 8 ? high : high - 16) * s);
                    out.push_back(float(low < 8 ? low : low - 16) * s);
                }
            }
        return out;
    }
    const auto n = t.data.size() / bytes_of(t.type);
    for (std::size_t i = 0; i < n; ++i) {
        if (t.type == SourceType::f32) {
            float f;
            std::memcpy(&f, bytes + 4 * i, 4);
            out.push_back(f);
        } else {
            REQUIRE((t.type == SourceType::f16 || t.type == SourceType::bf16));
            out.push_back(t.type == SourceType::f16 ? half_to_float(half(bytes + 2 * i)) : bf16_to_float(half(bytes + 2 * i)));
        }
    }
    return out;
}

/// A tensor of the output as floats, padding taken off.
Floats target(const Gguf& f, const std::string& name) {
    const auto& t = f.tensor(name);
    const auto cols = f.integer("glmd.cols." + name, t.cols());
    Floats out, row(static_cast<std::size_t>(t.cols()));
    for (std::int64_t r = 0; r < t.rows(); ++r) {
        dequantize_row(t.type, t.data.data() + static_cast<std::size_t>(r) * row_bytes(t.type, t.cols()), row);
        for (std::int64_t i = cols; i < t.cols(); ++i) REQUIRE(row[static_cast<std::size_t>(i)] == 0);
        out.insert(out.end(), row.begin(), row.begin() + cols);
    }
    return out;
}

Floats operator+(Floats a, const Floats& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

/// Rows per head [q | k | v] to three blocks.
Floats untangled(const Floats& in, int heads) {
    const std::size_t block = in.size() / static_cast<std::size_t>(heads) / 3;
    Floats out(in.size());
    for (std::size_t h = 0; h < static_cast<std::size_t>(heads); ++h)
        for (std::size_t b = 0; b < 3; ++b)
            std::copy_n(in.begin() + static_cast<std::ptrdiff_t>((h * 3 + b) * block), block,
                        out.begin() + static_cast<std::ptrdiff_t>((b * static_cast<std::size_t>(heads) + h) * block));
    return out;
}

void same(const Gguf& f, const std::string& name, const Floats& expected) {
    INFO(name);
    const auto have = target(f, name);
    REQUIRE(have.size() == expected.size());
    REQUIRE(std::memcmp(have.data(), expected.data(), have.size() * sizeof(float)) == 0);
}

/// Every tensor of the output against the source, and that there are no others.
void check_tensors(const Gguf& f, const Checkpoint& c) {
    const auto architecture = f.string("general.architecture");
    const auto layers = f.integer(architecture + ".block_count");
    const auto heads = static_cast<int>(f.integer(architecture + ".attention.head_count"));
    std::size_t count = 0;
    const auto check = [&](const std::string& name, const Floats& expected) { same(f, name, expected), ++count; };
    const auto both = [&](const std::string& to, const std::string& from, const std::function<Floats(Floats)>& change = {}) {
        for (const std::string w : {".weight", ".bias"})
            if (c.find(from + w)) check(to + w, change ? change(source(c, from + w)) : source(c, from + w));
            else REQUIRE(!f.find(to + w));
    };
    if (c.find("model.embed_tokens.weight")) {
        both("token_embd", "model.embed_tokens");
        both("output", "lm_head");
        both("output_norm", "model.norm");
        for (int i = 0; i < layers; ++i) {
            const std::string p = "blk." + std::to_string(i) + ".", m = "model.layers." + std::to_string(i) + ".";
            both(p + "attn_norm", m + "input_layernorm");
            for (const std::string w : {".weight", ".bias"})
                if (const auto a = m + "self_attn."; c.find(a + "q_proj" + w))
                    check(p + "attn_qkv" + w, source(c, a + "q_proj" + w) + source(c, a + "k_proj" + w) + source(c, a + "v_proj" + w));
            both(p + "attn_output", m + "self_attn.o_proj");
            both(p + "post_attention_norm", m + "post_self_attn_layernorm");
            both(p + "ffn_norm", m + "post_attention_layernorm");
            both(p + "ffn_up", m + "mlp.gate_up_proj");
            both(p + "ffn_down", m + "mlp.down_proj");
            both(p + "post_ffw_norm", m + "post_mlp_layernorm");
        }
    } else if (architecture == "chatglm") {
        both("token_embd", "transformer.embedding.word_embeddings");
        both("output", "transformer.output_layer");
        both("output_norm", "transformer.encoder.final_layernorm");
        for (int i = 0; i < layers; ++i) {
            const std::string p = "blk." + std::to_string(i) + ".", m = "transformer.encoder.layers." + std::to_string(i) + ".";
            both(p + "attn_norm", m + "input_layernorm");
            both(p + "attn_qkv", m + "self_attention.query_key_value");
            both(p + "attn_output", m + "self_attention.dense");
            both(p + "ffn_norm", m + "post_attention_layernorm");
            both(p + "ffn_up", m + "mlp.dense_h_to_4h");
            both(p + "ffn_down", m + "mlp.dense_4h_to_h");
        }
    } else {
        const std::string g = c.find("glm.word_embeddings.weight") ? "glm." : "", t = g + "transformer.";
        both("token_embd", (architecture == "glm" ? g : t) + "word_embeddings");
        both("position_embd", t + "position_embeddings");
        both("block_position_embd", t + "block_position_embeddings");
        both("output_norm", t + "final_layernorm");
        for (int i = 0; i < layers; ++i) {
            const std::string p = "blk." + std::to_string(i) + ".", m = t + "layers." + std::to_string(i) + ".";
            both(p + "attn_norm", m + "input_layernorm");
            both(p + "attn_qkv", m + "attention.query_key_value",
                 [&](Floats x) { return architecture == "glm" ? std::move(x) : untangled(x, heads); });
            both(p + "attn_output", m + "attention.dense");
            both(p + "ffn_norm", m + "post_attention_layernorm");
            both(p + "ffn_up", m + "mlp.dense_h_to_4h");
            both(p + "ffn_down", m + "mlp.dense_4h_to_h");
        }
    }
    REQUIRE(count == f.tensors().size());
    REQUIRE(f.integer("glmd.vocabulary") == f.tensor("token_embd.weight").rows());
}

ConvertOptions options(const std::string& in, const std::string& out, OutputType type) {
    ConvertOptions o;
    o.input = in;
    o.output = out;
    o.type = type;
    return o;
}

constexpr const char* plain_checkpoints[] = {"chatglm1/fp16", "chatglm1/fp32",    "chatglm1/deep28", "chatglm2/fp16",     "chatglm3/fp16",
                                             "glm/hf",        "glm4_remote/bf16", "glm4_hf/model",   "glm_edge_hf/model", "glm4_0414_hf/model"};

// ---- a zip file as PyTorch writes it, for pickles that PyTorch wouldn't write

template <class T>
void add(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string zip(const std::vector<std::pair<std::string, std::string>>& entries) {
    std::string out, directory;
    for (const auto& [name, data] : entries) {
        const auto at = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(data.size());
        out += std::string("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
        add(out, size), add(out, size), add(out, static_cast<std::uint16_t>(name.size())), add(out, std::uint16_t{0});
        out += name + data;
        directory += std::string("PK\1\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
        add(directory, size), add(directory, size), add(directory, static_cast<std::uint16_t>(name.size()));
        directory.append(12, '\0');
        add(directory, at);
        directory += name;
    }
    const auto at = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(directory.size());
    const auto count = static_cast<std::uint16_t>(entries.size());
    out += directory + std::string("PK\5\6\0\0\0\0", 8);
    add(out, count), add(out, count), add(out, size), add(out, at), add(out, std::uint16_t{0});
    return out;
}

std::string pickle_error(const Scratch& s, const std::string& pickle) {
    put(s.file("x.bin"), zip({{"a/data.pkl", pickle}, {"a/data/0", std::string(64, '\1')}}));
    return error_of([&] { read_torch_zip(MappedFile(s.file("x.bin"))); });
}

std::string text_op(const std::string& text) {
    std::string out = "X";
    add(out, static_cast<std::uint32_t>(text.size()));
    return out + text;
}

std::string tensor_ops(int offset, int rows, int cols, int row_stride, int storage_elements = 32) {
    const auto number = [](int n) {
        std::string out = "J";
        add(out, static_cast<std::int32_t>(n));
        return out;
    };
    return "ctorch._utils\n_rebuild_tensor_v2\n((" + text_op("storage") + "ctorch\nHalfStorage\n" + text_op("0") + text_op("cpu") +
           number(storage_elements) + "tQ" + number(offset) + number(rows) + number(cols) + "\x86" + number(row_stride) + number(1) +
           "\x86\x89" "ccollections\nOrderedDict\n)RtR";
}

/// Damages bytes of a file and reads it; only ModelError may come out. `edges`: where the interesting bytes are.
template <class Read>
void damage(const Scratch& s, const std::string& bytes, const std::string& name, int times, unsigned seed, const Read& read) {
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
    int refused = 0;
    for (int i = 0; i < times; ++i) {
        std::string broken = bytes;
        if (i % 5 == 0) {
            broken.resize(below(broken.size()));
        } else {
            const int flips = 1 + static_cast<int>(below(4));
            for (int k = 0; k < flips; ++k) {
                std::size_t at = below(broken.size());
                if (k % 2 == 0 || i % 2 == 0) at = below(2) ? below(std::min<std::size_t>(4096, broken.size()))
                                                              : broken.size() - 1 - below(std::min<std::size_t>(4096, broken.size()));
                broken[at] = static_cast<char>(i % 3 == 0 ? below(256) : broken[at] ^ (1 << below(8)));
            }
        }
        put(s.file(name), broken);
        if (!error_of([&] { read(s.file(name)); }).empty()) ++refused;
    }
    CHECK(refused > times / 20);
}

}  // namespace

TEST_CASE("every recorded checkpoint converts, f32 bit by bit") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    for (const std::string name : plain_checkpoints) {
        INFO(name);
        convert_checkpoint(options(g + "/" + name, s.file("x.gguf"), OutputType::f32));
        const Gguf f(s.file("x.gguf"));
        check_tensors(f, Checkpoint(g + "/" + name));
        REQUIRE(f.strings("glmd.source.sha256").size() == f.strings("glmd.source.files").size());
        REQUIRE(f.strings("glmd.source.sha256").at(0).size() == 64);
        convert_checkpoint(options(g + "/" + name, s.file("y.gguf"), OutputType::as_source));
        check_tensors(Gguf(s.file("y.gguf")), Checkpoint(g + "/" + name));
    }
}

TEST_CASE("half and bfloat16 sources to f16, int8 and int4 stay close") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    for (const std::string name : plain_checkpoints) {
        INFO(name);
        const Checkpoint source(g + "/" + name);
        convert_checkpoint(options(g + "/" + name, s.file("f32.gguf"), OutputType::f32));
        const Gguf exact(s.file("f32.gguf"));
        for (const auto& [type, limit] : {std::pair{OutputType::f16, 1e-3}, {OutputType::int8, 0.01}, {OutputType::int4, 0.12}}) {
            convert_checkpoint(options(g + "/" + name, s.file("x.gguf"), type));
            const Gguf f(s.file("x.gguf"));
            REQUIRE(f.tensors().size() == exact.tensors().size());
            for (const auto& t : exact.tensors()) {
                INFO(t.name);
                const auto a = target(exact, t.name), b = target(f, t.name);
                REQUIRE(a.size() == b.size());
                double error = 0, norm = 0;
                for (std::size_t i = 0; i < a.size(); ++i) error += (a[i] - b[i]) * (a[i] - b[i]), norm += a[i] * a[i];
                REQUIRE(std::sqrt(error) <= limit * std::sqrt(norm));
                if (t.shape.size() == 1 || t.name.find("position_embd") != std::string::npos) REQUIRE(error == 0);
            }
        }
    }
}

TEST_CASE("upstream's int4 and int8 are mapped exactly") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const auto run = [&](const std::string& name, bool four, const std::string& config) {
        INFO(name);
        const Checkpoint source(g + "/" + name, config);
        for (const auto type : {OutputType::as_source, OutputType::f32, OutputType::int8, OutputType::int4}) {
            if (type == OutputType::int4 && !four) continue;  // that one is a requantization
            auto o = options(g + "/" + name, s.file("x.gguf"), type);
            o.config = config;
            convert_checkpoint(o);
            const Gguf f(s.file("x.gguf"));
            check_tensors(f, source);
            const auto quantized = f.tensor("blk.0.ffn_up.weight").type, embedding = f.tensor("token_embd.weight").type;
            if (type != OutputType::f32) {
                REQUIRE(quantized == (four && type != OutputType::int8 ? DType::q4_0 : DType::q8_0));
                REQUIRE(embedding == DType::f16);
            }
        }
    };
    for (const char* family : {"chatglm1", "chatglm2"}) {
        run(std::string(family) + "/int4", true, "");
        run(std::string(family) + "/int8", false, "");
    }
    run("glm130b/sat_mp1_int4", true, g + "/glm130b/model_config.json");
    run("glm130b/sat_mp1_int8", false, g + "/glm130b/model_config.json");
}

TEST_CASE("GLM-130B: whole and split checkpoints give the same file") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    for (const auto type : {OutputType::as_source, OutputType::f32, OutputType::int8, OutputType::int4}) {
        for (const std::string part : {"sat_mp1", "sat_mp2"}) {
            auto o = options(g + "/glm130b/" + part, s.file(part), type);
            o.config = g + "/glm130b/model_config.json";
            o.tokenizer = g + "/chatglm1/fp16";
            o.record_sources = false;
            convert_checkpoint(o);
        }
        REQUIRE(content(s.file("sat_mp1")) == content(s.file("sat_mp2")));
    }
    {
        // Its tokenizer is ChatGLM-6B's, its way to be asked isn't.
        const Gguf f(s.file("sat_mp1"));
        const auto chat = load_chat_template(f);
        REQUIRE(chat->name() == "glm130b");
        const auto tokenizer = load_tokenizer(f);
        const auto ids = chat->render(std::vector<ChatMessage>{{"user", "a"}}, *tokenizer);
        REQUIRE(ids.size() > 2);
        REQUIRE(ids[ids.size() - 2] == f.integer("glmd.token.gmask"));
        REQUIRE(ids.back() == f.integer("glmd.token.sop"));
    }
    convert_checkpoint([&] {
        auto o = options(g + "/glm130b/sat_mp2", s.file("x.gguf"), OutputType::f32);
        o.config = g + "/glm130b/model_config.json";
        return o;
    }());
    const Gguf f(s.file("x.gguf"));
    check_tensors(f, Checkpoint(g + "/glm130b/sat_mp1", g + "/glm130b/model_config.json"));
    REQUIRE(f.integer("glmd.token.gmask") == 561);
    // Without a configuration the sizes are those of the real one, which these aren't.
    REQUIRE(error_of([&] { convert_checkpoint(options(g + "/glm130b/sat_mp1", s.file("no.gguf"), OutputType::f32)); }).find("12288") != std::string::npos);
    REQUIRE(!fs::exists(s.file("no.gguf")));
}

TEST_CASE("two layouts of one model give the same tensors and tokens") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    convert_checkpoint(options(g + "/glm4_remote/bf16", s.file("a"), OutputType::int4));
    convert_checkpoint(options(g + "/glm4_hf/model", s.file("b"), OutputType::int4));
    auto original = options(g + "/glm/original", s.file("d"), OutputType::f16);
    REQUIRE(error_of([&] { convert_checkpoint(original); }).find("--config") != std::string::npos);
    original.config = g + "/glm/hf/config.json";
    original.tokenizer = g + "/glm/hf";
    convert_checkpoint(options(g + "/glm/hf", s.file("c"), OutputType::f16));
    convert_checkpoint(original);
    for (const auto& [x, y] : {std::pair{"a", "b"}, {"c", "d"}}) {
        const Gguf a(s.file(x)), b(s.file(y));
        REQUIRE(a.tensors().size() == b.tensors().size());
        for (const auto& t : a.tensors()) {
            INFO(t.name);
            REQUIRE(std::ranges::equal(t.data, b.tensor(t.name).data));
        }
        REQUIRE(a.strings("tokenizer.ggml.tokens") == b.strings("tokenizer.ggml.tokens"));
        if (a.has("tokenizer.ggml.merges")) REQUIRE(a.strings("tokenizer.ggml.merges") == b.strings("tokenizer.ggml.merges"));
        REQUIRE(a.numbers("tokenizer.ggml.token_type") == b.numbers("tokenizer.ggml.token_type"));
    }
    REQUIRE(Gguf(s.file("c")).string("glm.activation") == "gelu_erf");
    REQUIRE(Gguf(s.file("d")).string("glm.activation") == "gelu_tanh");
}

TEST_CASE("what kind of chat each checkpoint speaks, and when it ends") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const struct {
        const char *name, *architecture, *chat, *pre;
        std::vector<double> ends;
    } expected[] = {{"chatglm1/fp16", "chatglm1", "chatglm1", "chatglm1", {565}},
                    {"chatglm2/fp16", "chatglm", "chatglm2", "chatglm-spm", {2}},
                    {"chatglm3/fp16", "chatglm", "chatglm3", "chatglm-spm", {2, 686, 688}},
                    {"glm4_remote/bf16", "chatglm", "glm4", "chatglm-bpe", {520, 527, 529}},
                    {"glm4_hf/model", "chatglm", "glm4", "chatglm-bpe", {520, 527, 529}},
                    {"glm_edge_hf/model", "chatglm", "glm-edge", "chatglm-bpe", {520, 527, 529}},
                    {"glm4_0414_hf/model", "glm4", "glm4_0414", "glm4", {520, 527, 529}},
                    {"glm/hf", "glm", "glm", "glm-spm", {717, 710}}};
    for (const auto& e : expected) {
        INFO(e.name);
        convert_checkpoint(options(g + "/" + e.name, s.file("x.gguf"), OutputType::f16));
        const Gguf f(s.file("x.gguf"));
        REQUIRE(f.string("general.architecture") == e.architecture);
        REQUIRE(f.string("glmd.chat_template") == e.chat);
        const std::string spoken(load_chat_template(f)->name());
        REQUIRE(spoken == (std::string(e.chat) == "glm4_0414" ? "glm4-0414" : e.chat));
        REQUIRE(f.string("tokenizer.ggml.pre") == e.pre);
        REQUIRE(f.numbers("glmd.end_ids") == e.ends);
        REQUIRE(static_cast<std::int64_t>(f.strings("tokenizer.ggml.tokens").size()) == f.integer("glmd.vocabulary"));
    }
}

TEST_CASE("a chat format that the user names is kept, whatever template the checkpoint brings") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    auto o = options(g + "/glm4_hf/model", s.file("x.gguf"), OutputType::f16);
    o.chat_template = "glm-edge";
    convert_checkpoint(o);
    const Gguf f(s.file("x.gguf"));
    REQUIRE(f.string("tokenizer.chat_template").find("[gMASK]") != std::string::npos);
    REQUIRE(load_chat_template(f)->name() == "glm-edge");
}

TEST_CASE("converted tokenizers give the recorded ids") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    for (const auto& [name, cases, chat] : {std::tuple{"chatglm1/fp16", "chatglm1_tiny.jsonl", "chatglm1"},
                                            {"chatglm2/fp16", "chatglm2_tiny.jsonl", "chatglm2"},
                                            {"chatglm3/fp16", "chatglm2_tiny.jsonl", "chatglm3"},
                                            {"glm4_remote/bf16", "glm4_remote_tiny.jsonl", "glm4"},
                                            {"glm4_hf/model", "glm4_hf_tiny.jsonl", "glm4"},
                                            {"glm_edge_hf/model", "glm4_hf_tiny.jsonl", "glm-edge"},
                                            {"glm4_0414_hf/model", "glm4_hf_tiny.jsonl", "glm4-0414"}}) {
        INFO(name);
        convert_checkpoint(options(g + "/" + name, s.file("x.gguf"), OutputType::f16));
        const Gguf f(s.file("x.gguf"));
        const auto tokenizer = load_tokenizer(f);
        REQUIRE(load_chat_template(f)->name() == chat);
        std::ifstream in(g + "/tokenizer_cases/" + cases);
        int same_ids = 0, all = 0;
        for (std::string line; std::getline(in, line); ++all) {
            const auto c = Config::parse(line, cases);
            const auto ids = c.integers("ids");
            const auto have = tokenizer->encode(c.string("text"), std::string_view(cases).starts_with("chatglm2") ? Specials::as_text : Specials::parse);
            if (std::equal(have.begin(), have.end(), ids.begin(), ids.end())) ++same_ids;
        }
        REQUIRE(all > 100);
        REQUIRE(same_ids == all);
    }
}

TEST_CASE("P-tuning prefixes") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const auto convert = [&](const std::string& base, const std::string& prefix) {
        auto o = options(g + "/" + base, s.file("x.gguf"), OutputType::f16);
        o.prefix = g + "/" + prefix;
        convert_checkpoint(o);
    };
    const auto check = [&](const std::string& name, const Floats& table, int kv_heads, double tolerance) {
        const Gguf f(s.file("x.gguf"));
        constexpr int layers = 3, tokens = 6, d = 12;
        REQUIRE(f.integer(f.string("general.architecture") + ".prefix_tokens") == tokens);
        for (int which = 0; which < 2; ++which) {
            const auto& t = f.tensor(which == 0 ? "prefix.key" : "prefix.value");
            REQUIRE(t.shape == std::vector<std::int64_t>{layers, tokens, kv_heads, d});
            const auto have = target(f, t.name);
            for (int l = 0; l < layers; ++l)
                for (int p = 0; p < tokens; ++p)
                    for (int i = 0; i < kv_heads * d; ++i) {
                        INFO(name);
                        const auto want = table[static_cast<std::size_t>((p * 2 * layers + 2 * l + which) * kv_heads * d + i)];
                        REQUIRE(std::abs(have[static_cast<std::size_t>((l * tokens + p) * kv_heads * d + i)] - want) <= tolerance);
                    }
        }
    };
    convert("chatglm1/fp16", "chatglm1/ptuning");
    check("chatglm1", source(Checkpoint(g + "/chatglm1/ptuning"), "transformer.prefix_encoder.embedding.weight"), 4, 0);
    convert("chatglm2/fp16", "chatglm2/ptuning");
    check("chatglm2", source(Checkpoint(g + "/chatglm2/ptuning"), "transformer.prefix_encoder.embedding.weight"), 2, 0);
    convert("chatglm1/fp16", "chatglm1/ptuning_proj");
    const Checkpoint c(g + "/chatglm1/ptuning_proj");
    const std::string p = "transformer.prefix_encoder.";
    const auto e = source(c, p + "embedding.weight"), w0 = source(c, p + "trans.0.weight"), b0 = source(c, p + "trans.0.bias"),
               w2 = source(c, p + "trans.2.weight"), b2 = source(c, p + "trans.2.bias");
    const auto linear = [](const Floats& x, const Floats& w, const Floats& b) {
        const std::size_t in = w.size() / b.size(), rows = x.size() / in;
        Floats y;
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t o = 0; o < b.size(); ++o) {
                double sum = b[o];
                for (std::size_t i = 0; i < in; ++i) sum += double(w[o * in + i]) * x[r * in + i];
                y.push_back(static_cast<float>(sum));
            }
        return y;
    };
    auto hidden = linear(e, w0, b0);
    for (float& v : hidden) v = std::tanh(v);
    check("projected", linear(hidden, w2, b2), 4, 1e-6);
    REQUIRE(!error_of([&] { convert("chatglm2/fp16", "chatglm1/ptuning"); }).empty());
    REQUIRE(!error_of([&] { convert("glm4_hf/model", "chatglm1/ptuning"); }).empty());
}

TEST_CASE("an interrupted conversion leaves nothing behind") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    for (const double stop : {0.0, 0.3, 0.7, 0.99}) {
        auto o = options(g + "/chatglm1/fp16", s.file("x.gguf"), OutputType::int4);
        REQUIRE_THROWS(convert_checkpoint(o, [&](std::uint64_t done, std::uint64_t total) {
            if (double(done) >= stop * double(total)) throw std::runtime_error("stopped");
        }));
        REQUIRE(fs::is_empty(s.path));
    }
    std::uint64_t last = 0, total = 0;
    convert_checkpoint(options(g + "/chatglm1/fp16", s.file("x.gguf"), OutputType::int4), [&](std::uint64_t d, std::uint64_t t) {
        REQUIRE(d >= last);
        last = d, total = t;
    });
    REQUIRE(last == total);
}

TEST_CASE("int4 scales: never worse than max-abs, usually much better") {
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 0.02f);
    const auto error = [](const Floats& x, const std::vector<std::byte>& packed) {
        Floats y(x.size());
        dequantize_row(DType::q4_0, packed.data(), y);
        double e = 0;
        for (std::size_t i = 0; i < x.size(); ++i) e += (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
        return e;
    };
    double plain_sum = 0, best_sum = 0;
    for (int i = 0; i < 20000; ++i) {
        Floats x(32);
        for (float& v : x) v = normal(random);
        switch (i % 8) {
            case 1: x[5] *= 20; break;                                              // an outlier
            case 2: for (float& v : x) v = std::abs(v); break;                       // one-sided
            case 3: for (std::size_t k = 1; k < 32; ++k) x[k] = 0; break;            // one value
            case 4: for (float& v : x) v = v > 0 ? 0.5f : -0.5f; break;              // two values
            case 5: for (float& v : x) v *= 1e-7f; break;                            // the half scale is subnormal
            case 6: for (float& v : x) v = 0; break;
            default: break;
        }
        std::vector<std::byte> a(18), b(18);
        REQUIRE(quantize_q4_0_plain(x, a.data()));
        REQUIRE(quantize_q4_0(x, b.data()));
        REQUIRE(error(x, b) <= error(x, a) * (1 + 1e-9));
        if (i % 8 == 0) plain_sum += error(x, a), best_sum += error(x, b);
    }
    std::cout << "int4: mean squared error on normal weights " << best_sum / plain_sum << " of max-abs rounding's\n";
    REQUIRE(best_sum < 0.95 * plain_sum);  // 0.85 without the weights, which answers are the better for
    Floats bad(32, 1.0f);
    std::vector<std::byte> out(34);
    for (const float v : {std::nanf(""), INFINITY, 1e9f}) {
        bad[3] = v;
        REQUIRE(!quantize_q4_0(bad, out.data()));
        REQUIRE(!quantize_q8_0(bad, out.data()));
    }
}

TEST_CASE("int4 against max-abs on the recorded tensors") {
    const auto g = golden();
    if (g.empty()) return;
    for (const std::string name : plain_checkpoints) {
        const Checkpoint c(g + "/" + name);
        double plain_sum = 0, best_sum = 0;
        for (const auto& t : c.tensors()) {
            if (t.shape.size() != 2) continue;
            INFO(t.name);
            auto x = source(c, t.name);
            x.resize(x.size() / 32 * 32);
            std::vector<std::byte> a(x.size() / 32 * 18), b(a.size());
            REQUIRE(quantize_q4_0_plain(x, a.data()));
            REQUIRE(quantize_q4_0(x, b.data()));
            Floats y(x.size()), z(x.size());
            dequantize_row(DType::q4_0, a.data(), y);
            dequantize_row(DType::q4_0, b.data(), z);
            double plain = 0, best = 0;
            for (std::size_t i = 0; i < x.size(); ++i) plain += (double(x[i]) - y[i]) * (x[i] - y[i]), best += (double(x[i]) - z[i]) * (x[i] - z[i]);
            REQUIRE(best <= plain * (1 + 1e-9));
            plain_sum += plain, best_sum += best;
        }
        std::cout << "int4 " << name << ": mean squared error " << best_sum / plain_sum << " of max-abs rounding's\n";
    }
}

TEST_CASE("pickles may build tensors and nothing else") {
    const Scratch s;
    const std::string start = "\x80\x02";
    const auto dict = [&](const std::string& ops) { return start + "}(" + text_op("w") + ops + "u."; };
    REQUIRE(pickle_error(s, dict(tensor_ops(0, 4, 8, 8))).empty());
    const MappedFile file(s.file("x.bin"));
    const auto read = read_torch_zip(file);
    REQUIRE(read.tensors.size() == 1);
    REQUIRE(read.tensors[0].shape == std::vector<std::int64_t>{4, 8});
    REQUIRE(read.tensors[0].data.size() == 64);
    REQUIRE(pickle_error(s, dict(tensor_ops(24, 1, 8, 999))).empty());  // a stride that is never used
    REQUIRE(pickle_error(s, start + "}(" + text_op("module") + "}(" + text_op("w") + tensor_ops(0, 4, 8, 8) + "uu.").empty());

    const auto says = [&](const std::string& pickle, const char* words) {
        const auto e = pickle_error(s, pickle);
        INFO(e);
        REQUIRE(e.find(words) != std::string::npos);
    };
    says(start + "cos\nsystem\n" + text_op("true") + "\x85R.", "os.system");
    says(start + "cbuiltins\neval\n.", "builtins.eval");
    says("\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system");
    says(start + "ctorch\nload\n.", "torch.load");
    says(start + "i" "os\nsystem\n.", "0x69");
    says(start + "ctorch\nFloatStorage\n)R.", "isn't allowed");
    says(dict(tensor_ops(1, 4, 8, 8)), "storage");
    says(dict(tensor_ops(0, 4, 8, 8, 33)), "storage");
    says(dict(tensor_ops(0, 0x7fffffff, 0x7fffffff, 8)), "row by row");
    says(dict(tensor_ops(-1, 4, 8, 8)), "storage");
    says(dict(tensor_ops(0, -4, 8, 8)), "impossible");
    says(dict(tensor_ops(0, 8, 4, 1)), "row by row");
    for (const std::string p : {"", "\x80", "\x80\x09.", "\x80\x02.", "\x80\x02R.", "\x80\x02h\x07.", "\x80\x02t.", "\x80\x02Q.", "\x80\x02}u.", "\x80\x02(u.",
                                "\x80\x02Nb.", "\x80\x02X\xff\xff\xff\x7f.", "\x80\x02}K\1K\2K\3(K\4us.", "\x80\x02\x8a\xff.", "\x80\x02]N."})
        REQUIRE(!pickle_error(s, p).empty());
    says(start + std::string(1000000, '\x85') + ".", "damaged");
    says(start + ")" + std::string(1000000, '\x85') + ".", "no dictionary");
    says(start + std::string(9000000, ')') + ".", "too large");
    says(start + std::string(1000000, '(') + ".", "damaged");
    REQUIRE(error_of([&] {
                put(s.file("y.bin"), std::string("\x80\x02\x8a\nl\xfc\x9c" "F\xf9 j\xa8P\x19.", 16) + std::string(100, '\0'));
                read_torch_zip(MappedFile(s.file("y.bin")));
            }).find("before version 1.6") != std::string::npos);
}

TEST_CASE("safetensors that lie") {
    const Scratch s;
    const auto says = [&](const std::string& json, std::size_t data) {
        std::string bytes;
        add(bytes, static_cast<std::uint64_t>(json.size()));
        put(s.file("x.safetensors"), bytes + json + std::string(data, '\0'));
        return error_of([&] { read_safetensors(MappedFile(s.file("x.safetensors"))); });
    };
    REQUIRE(says(R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}})", 12).empty());
    for (const char* json :
         {R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,13]}})", R"({"a":{"dtype":"F16","shape":[2,4],"data_offsets":[0,12]}})",
          R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[12,0]}})", R"({"a":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]}})",
          R"({"a":{"dtype":"F16","shape":[-2,-3],"data_offsets":[0,12]}})", R"({"a":{"dtype":"F8","shape":[12],"data_offsets":[0,12]}})",
          R"({"a":{"dtype":"F16","shape":[9223372036854775807,9223372036854775807,4],"data_offsets":[0,12]}})",
          R"({"a":{"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
          R"({"a":{"dtype":"F16","shape":[18446744073709551615],"data_offsets":[0,12]}})", R"({"a":{"dtype":"F16","shape":6,"data_offsets":[0,12]}})",
          R"({"a":{"dtype":7,"shape":[6],"data_offsets":[0,12]}})", R"({"a":[]})", "[]", "{", ""})
        REQUIRE(!says(json, 12).empty());
    put(s.file("x.safetensors"), std::string(8, '\xff') + "{}");
    REQUIRE(!error_of([&] { read_safetensors(MappedFile(s.file("x.safetensors"))); }).empty());
    put(s.file("model.safetensors.index.json"), R"({"weight_map":{"a":"../x.safetensors"}})");
    REQUIRE(error_of([&] { Checkpoint c(s.path.string()); }).find("same folder") != std::string::npos);
    put(s.file("latest"), "../elsewhere");
    REQUIRE(error_of([&] { Checkpoint c(s.path.string()); }).find("same folder") != std::string::npos);
}

TEST_CASE("damaged files are refused, never worse") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const auto torch = [](const std::string& path) { read_torch_zip(MappedFile(path)); };
    damage(s, content(g + "/chatglm1/ptuning/pytorch_model.bin"), "a.bin", 5000, 1, torch);
    damage(s, content(g + "/chatglm1/fp32/pytorch_model-00001-of-00002.bin"), "b.bin", 300, 2, torch);
    damage(s, content(g + "/glm4_hf/model/model-00002-of-00002.safetensors"), "c.safetensors", 5000, 3,
           [](const std::string& path) { read_safetensors(MappedFile(path)); });
    // Whole folders, so that what a reader lets through is converted.
    const auto folder = [&](const std::string& name, const std::string& file, int times, unsigned seed) {
        const fs::path copy = s.path / ("folder" + std::to_string(seed));
        fs::copy(g + "/" + name, copy);
        fs::permissions(copy, fs::perms::owner_all, fs::perm_options::add);
        for (const auto& e : fs::directory_iterator(copy)) fs::permissions(e, fs::perms::owner_all, fs::perm_options::add);
        damage(s, content((copy / file).string()), "folder" + std::to_string(seed) + "/" + file, times, seed, [&](const std::string&) {
            auto o = options(copy.string(), s.file("out.gguf"), OutputType::int4);
            o.threads = 1;
            o.record_sources = false;
            convert_checkpoint(o);
        });
    };
    folder("chatglm1/int4", "pytorch_model.bin", 300, 4);
    folder("glm_edge_hf/model", "model.safetensors", 300, 5);
    folder("glm_edge_hf/model", "config.json", 300, 6);
    folder("glm_edge_hf/model", "tokenizer.json", 200, 7);
    folder("glm4_remote/bf16", "tokenizer.model", 300, 8);
    folder("glm4_remote/bf16", "tokenizer_config.json", 200, 9);
    folder("chatglm2/fp16", "tokenizer.model", 300, 10);
    folder("chatglm1/fp16", "config.json", 300, 11);
    folder("glm/hf", "added_tokens.json", 200, 12);
}
