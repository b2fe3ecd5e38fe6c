// Every recorded single operation of the upstream models (GLMD_GOLDEN/ops, see the README there) through Backend, on every
// instruction set. The shapes come from the arrays, so that another set of the same layout can be pointed at.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <boost/json/src.hpp>  // without its library: this program is also built where only the kernels are

#include "common.h"
#include "kernels/half.h"

namespace glmd::test {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    INFO(path.string());
    REQUIRE(file);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// A NumPy array, whatever its type, as floats: exact for halves, bytes and the small integers here.
struct Array {
    std::vector<std::int64_t> shape;
    Floats values;
    std::int64_t cols() const { return shape.back(); }
    std::int64_t rows() const { return std::int64_t(values.size()) / cols(); }
    std::vector<std::int32_t> ids() const { return {values.begin(), values.end()}; }
};

template <class T, class F>
void widen(const std::string& bytes, std::size_t at, Floats& out, F f) {
    REQUIRE(bytes.size() - at == out.size() * sizeof(T));
    for (float& value : out) {
        T element;
        std::memcpy(&element, bytes.data() + at, sizeof element);
        at += sizeof element;
        value = f(element);
    }
}

Array read_npy(const fs::path& path) {
    const std::string bytes = read_file(path);
    REQUIRE(bytes.compare(0, 7, "\x93NUMPY\x01") == 0);
    const std::size_t length = std::uint8_t(bytes.at(8)) + 256u * std::uint8_t(bytes.at(9)), data = 10 + length;
    const std::string header = bytes.substr(10, length);
    REQUIRE(header.find("'fortran_order': False") != std::string::npos);
    Array array;
    std::size_t count = 1;
    const char* p = header.c_str() + header.find("'shape': (") + 10;
    while (*p != ')') {
        char* end;
        array.shape.push_back(std::strtoll(p, &end, 10));
        count *= std::size_t(array.shape.back());
        for (p = end; *p == ',' || *p == ' '; ++p) {}
    }
    array.values.resize(count);
    const auto same = [](auto x) { return float(x); };
    const auto is = [&](const char* type) { return header.find(std::string("'descr': '") + type + "'") != std::string::npos; };
    if (is("<f4")) widen<float>(bytes, data, array.values, same);
    else if (is("<f2")) widen<std::uint16_t>(bytes, data, array.values, half_to_float);
    else if (is("<i8")) widen<std::int64_t>(bytes, data, array.values, same);
    else if (is("|i1")) widen<std::int8_t>(bytes, data, array.values, same);
    else if (is("|b1")) widen<std::uint8_t>(bytes, data, array.values, same);
    else FAIL("an array type that nobody reads: " << header);
    return array;
}

/// One entry of ops.json.
struct Operation {
    fs::path folder;
    json::object entry;
    std::string name() const { return std::string(entry.at("op").as_string()); }
    bool is(const char* prefix) const { return name().rfind(prefix, 0) == 0; }
    bool has(const char* key) const { return entry.contains(key); }
    Array array(const char* key) const { return read_npy(folder / entry.at(key).as_object().at("file").as_string().c_str()); }
    double number(const char* key) const { return entry.at(key).to_number<double>(); }
};

Activations view(Array& a) { return {a.values.data(), a.rows(), a.cols()}; }

/// The largest difference; relative where the numbers are larger than 1.
double error(const Floats& actual, const Floats& expected) {
    double largest = 1;
    for (float v : expected) largest = std::max(largest, std::fabs(double(v)));
    double worst = 0;
    REQUIRE(actual.size() == expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double d = std::fabs(double(actual[i]) - double(expected[i]));
        if (!(d <= worst)) worst = d;
    }
    return worst / largest;
}

double norm(Backend& cpu, const Operation& op) {
    Array x = op.array("x");
    const Floats weight = op.array("weight").values;
    const float eps = float(op.number("eps"));
    if (op.is("rms")) {
        cpu.rms_norm(view(x), view(x), vector(weight), eps);
    } else {
        const Floats bias = op.array("bias").values;
        cpu.layer_norm(view(x), view(x), vector(weight), vector(bias), eps);
    }
    return error(x.values, op.array("y").values);
}

double activation(Backend& cpu, const Operation& op, Function function, Gate gate) {
    Array x = op.array("x");
    const Array y = op.array("y");
    Array out = y;
    cpu.activation(view(out), view(x), function, gate);
    return error(out.values, y.values);
}

/// [positions, frequencies] of (cos, sin), in the single precision of the upstream code.
Floats rotary_table(const Floats& frequencies, std::int32_t last) {
    Floats table;
    for (std::int32_t p = 0; p <= last; ++p) {
        for (float f : frequencies) {
            const float angle = float(p) * f;
            table.push_back(std::cos(angle));
            table.push_back(std::sin(angle));
        }
    }
    return table;
}

/// 1 / theta^(2i / dim) in single precision, rounded to half where upstream stores it so.
Floats frequencies(double theta, int dim, bool rounded) {
    Floats f;
    for (int i = 0; i < dim; i += 2) {
        const float exact = 1.0f / std::pow(float(theta), float(i) / float(dim));
        f.push_back(rounded ? half_to_float(float_to_half(exact)) : exact);
    }
    return f;
}

double rotary(Backend& cpu, const Operation& op) {
    struct Turn {
        const char* positions;
        int offset, dim;
    };
    const int head_dim = int(op.array("q").cols()), half = head_dim / 2;
    const bool rounded = op.has("inv_freq_half_rounded");
    std::vector<Turn> turns;
    if (op.has("block_positions")) turns = {{"positions", 0, half}, {"block_positions", half, half}};
    else turns = {{"positions", 0, rounded ? head_dim : half}};
    double worst = 0;
    for (const auto& [in, expected] : {std::pair{"q", "q_out"}, std::pair{"k", "k_out"}}) {
        Array x = op.array(in);
        const std::int64_t width = x.shape[1] * x.shape[2];
        for (const Turn& turn : turns) {
            const auto positions = op.array(turn.positions).ids();
            const std::int32_t last = *std::max_element(positions.begin(), positions.end());
            const Floats f = frequencies(op.has("theta") ? op.number("theta") : 10000.0, turn.dim, rounded);
            if (rounded) CHECK(f == op.array("inv_freq_half_rounded").values);
            const Floats table = rotary_table(f, last);
            const RotaryPairing pairing = rounded ? RotaryPairing::half : RotaryPairing::interleaved;
            cpu.rotary({x.values.data(), x.shape[0], width}, head_dim, {turn.offset, turn.dim, pairing, table.data(), last + 1},
                       positions.data());
        }
        worst = std::max(worst, error(x.values, op.array(expected).values));
    }
    return worst;
}

/// The bidirectional length that a recorded mask [rows, keys] stands for; fails if it is another kind of mask.
std::int32_t bidirectional(const Array& mask, float visible) {
    const std::int64_t keys = mask.cols();
    const auto sees = [&](std::int64_t row, std::int64_t key) { return mask.values[std::size_t(row * keys + key)] == visible; };
    std::int32_t length = 0;
    while (length < keys && sees(0, length)) ++length;
    for (std::int64_t row = 0; row < mask.rows(); ++row) {
        for (std::int64_t key = 0; key < keys; ++key) REQUIRE(sees(row, key) == (key <= row || key < length));
    }
    return length;
}

double attention(Backend& cpu, const Operation& op) {
    Array q = op.array("q"), k = op.array("k"), v = op.array("v");
    const Array y = op.array("y");
    Array out = y;
    const int rows = int(q.shape[0]), keys = int(k.shape[0]), kv_heads = int(k.shape[1]), head_dim = int(k.shape[2]);
    const std::int32_t length = op.has("mask_true_means_hidden")  ? bidirectional(op.array("mask_true_means_hidden"), 0)
                                : op.has("mask_one_means_visible") ? bidirectional(op.array("mask_one_means_visible"), 1)
                                                                   : 0;
    const int blocks = (keys + kv_block_tokens - 1) / kv_block_tokens;
    std::vector<std::int32_t> table, sequence(std::size_t(keys), 0), slot;
    for (int b = 0; b < blocks; ++b) table.push_back(blocks - 1 - b);
    for (int t = 0; t < keys; ++t) slot.push_back(t);
    const StepTables all{keys, 1, blocks, sequence.data(), slot.data(), table.data(), &length};
    const auto pool = cpu.make_kv_pool({1, kv_heads, head_dim, KvType::f32}, blocks);
    const std::int64_t kv_width = std::int64_t(kv_heads) * head_dim;
    cpu.kv_write(*pool, 0, {k.values.data(), keys, kv_width}, {v.values.data(), keys, kv_width}, all);
    cpu.attention(view(out), {q.values.data(), rows, q.shape[1] * head_dim}, *pool, 0, all.slice(keys - rows, rows),
                  1.0f / std::sqrt(float(head_dim)), {});
    return error(out.values, y.values);
}

/// Upstream's integers with one scale per row become Q8_0 or Q4_0 blocks that repeat it; odd widths end in zeros.
double quantized_linear(Backend& cpu, const Operation& op) {
    const bool nibbles = op.is("linear_int4");
    const DType type = nibbles ? DType::q4_0 : DType::q8_0;
    Array x = op.array("x");
    const Array packed = op.array("packed"), y = op.array("y"), dequantized = op.array("dequantized");
    const Floats scale = op.array("scale").values, bias = op.array("bias").values;
    const std::int64_t rows = packed.rows(), cols = x.cols(), padded = (cols + 31) / 32 * 32;
    std::vector<std::byte> stored;
    Floats widened;
    for (std::int64_t r = 0; r < rows; ++r) {
        std::vector<int> q(std::size_t(padded), 0);
        for (std::int64_t c = 0; c < cols; ++c) {
            const int byte = int(packed.values[std::size_t(r * packed.cols() + (nibbles ? c / 2 : c))]);
            const int nibble = (c % 2 == 0 ? byte >> 4 : byte) & 15;
            q[std::size_t(c)] = !nibbles ? byte : nibble < 8 ? nibble : nibble - 16;
            widened.push_back(float(q[std::size_t(c)]) * scale[std::size_t(r)]);
        }
        const std::uint16_t half = float_to_half(scale[std::size_t(r)]);
        for (const int* block = q.data(); block < q.data() + padded; block += 32) {
            stored.push_back(std::byte(half & 255));
            stored.push_back(std::byte(half >> 8));
            for (int i = 0; i < (nibbles ? 16 : 32); ++i) {
                stored.push_back(nibbles ? std::byte((block[i] + 8) | (block[i + 16] + 8) << 4) : std::byte(block[i] & 255));
            }
        }
    }
    CHECK(widened == dequantized.values);
    const PackFormat format = cpu.pack_format(type);
    std::vector<std::byte> bytes(cpu.packed_bytes(format, rows, padded));
    cpu.pack(type, stored.data(), rows, padded, bytes);
    Array out = y;
    cpu.linear(view(out), view(x), {format, rows, padded, bytes.data(), bytes.size()}, vector(bias), Precision::exact);
    return error(out.values, y.values);
}

double run(Backend& cpu, const Operation& op) {
    if (op.is("layernorm") || op.is("rmsnorm")) return norm(cpu, op);
    if (op.is("gelu_tanh")) return activation(cpu, op, Function::gelu_tanh, Gate::none);
    if (op.is("gelu_erf")) return activation(cpu, op, Function::gelu_erf, Gate::none);
    if (op.is("silu")) return activation(cpu, op, Function::silu, Gate::none);
    if (op.is("swiglu")) return activation(cpu, op, Function::silu, Gate::first);
    if (op.is("geglu")) return activation(cpu, op, Function::gelu_erf, Gate::second);
    if (op.is("rope")) return rotary(cpu, op);
    if (op.is("attention")) return attention(cpu, op);
    if (op.is("linear_int")) return quantized_linear(cpu, op);
    FAIL("an operation that nobody computes");
    return 0;
}

}  // namespace

TEST_CASE("recorded operations on every instruction set") {
    const char* golden = std::getenv("GLMD_GOLDEN");
    if (!golden) {
        std::cout << "skipped: GLMD_GOLDEN isn't set\n";
        return;
    }
    const fs::path folder = fs::path(golden) / "ops";
    const json::value operations = json::parse(read_file(folder / "ops.json"));
    REQUIRE(!operations.as_array().empty());
    for (const std::string& isa : cpu_instruction_sets()) {
        const auto cpu = backend(isa);
        for (const json::value& entry : operations.as_array()) {
            const Operation op{folder, entry.as_object()};
            INFO(isa << ": " << op.name());
            const double worst = run(*cpu, op);
            CHECK(worst < 1e-5);
            std::printf("%-11s %-31s %.1e\n", isa.c_str(), op.name().c_str(), worst);
        }
    }
}

}  // namespace glmd::test
