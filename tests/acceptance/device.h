#pragma once
// What is checked, and a backend with a planted error.
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/device_memory.h"

namespace glmd::acceptance {

using Floats = std::vector<float>;
using Device = test::DeviceMemory;

/// Does everything right but one operation, whose last number is off (or which isn't done at all). Only for memory of the host.
class Planted final : public Backend {
public:
    Planted(std::unique_ptr<Backend> good, std::string broken) : good_(std::move(good)), broken_(std::move(broken)) {}

    std::string description() const override { return good_->description() + ", " + broken_ + " broken"; }
    std::string pack_id() const override { return good_->pack_id(); }
    PackFormat pack_format(DType type) const override { return good_->pack_format(type); }
    std::size_t packed_bytes(PackFormat f, std::int64_t r, std::int64_t c) const override { return good_->packed_bytes(f, r, c); }
    void pack(DType t, const std::byte* s, std::int64_t r, std::int64_t c, std::span<std::byte> o) const override { good_->pack(t, s, r, c, o); }
    std::unique_ptr<Buffer> allocate(std::size_t bytes) override { return good_->allocate(bytes); }
    void upload(void* t, const void* h, std::size_t n) override { good_->upload(t, h, n); }
    void download(void* h, const void* s, std::size_t n) override { good_->download(h, s, n); }
    std::unique_ptr<KvPool> make_kv_pool(KvShape shape, int blocks) override { return good_->make_kv_pool(shape, blocks); }

    void embedding(Activations o, const Matrix& t, const std::int32_t* i) override { good_->embedding(o, t, i), off("embedding", o); }
    void add_positions(Activations x, const Matrix& t, const std::int32_t* p) override { good_->add_positions(x, t, p), off("add_positions", x); }
    void layer_norm(Activations o, Activations x, Vector w, Vector b, float e) override { good_->layer_norm(o, x, w, b, e), off("layer_norm", o); }
    void rms_norm(Activations o, Activations x, Vector w, float e) override { good_->rms_norm(o, x, w, e), off("rms_norm", o); }
    void residual(Activations o, Activations x, float a, Activations y) override { good_->residual(o, x, a, y), off("residual", o); }
    void linear(Activations o, Activations x, const Matrix& w, Vector b, Precision p) override { good_->linear(o, x, w, b, p), off("linear", o); }
    void rotary(Activations x, int d, const Rotary& r, const std::int32_t* p) override { good_->rotary(x, d, r, p), off("rotary", x); }
    void kv_write(KvPool& pool, int layer, Activations k, Activations v, const StepTables& s) override {
        good_->kv_write(pool, layer, k, broken_ == "kv_write" ? k : v, s);
    }
    void kv_copy(KvPool& pool, int from, int to) override {
        if (broken_ != "kv_copy") good_->kv_copy(pool, from, to);
    }
    void kv_export(const KvPool& pool, int block, std::span<std::byte> host) override { good_->kv_export(pool, block, host); }
    void kv_import(KvPool& pool, int block, std::span<const std::byte> host) override {
        if (broken_ != "kv_import") good_->kv_import(pool, block, host);
    }
    void attention(Activations o, Activations q, const KvPool& pool, int layer, const StepTables& s, float scale, const AttentionPrefix& p) override {
        good_->attention(o, q, pool, layer, s, scale, p), off("attention", o);
    }
    void activation(Activations o, Activations x, Function f, Gate g) override { good_->activation(o, x, f, g), off("activation", o); }
    void gather_rows(Activations o, Activations x, const std::int32_t* r) override { good_->gather_rows(o, x, r), off("gather_rows", o); }
    void take_columns(Activations o, Activations x, std::int64_t f) override { good_->take_columns(o, x, f), off("take_columns", o); }
    void put_columns(Activations o, Activations x, std::int64_t f) override { good_->put_columns(o, x, f), off("put_columns", o); }
    void top_k(Activations x, int k, std::int32_t* ids, float* values) override {
        good_->top_k(x, k, ids, values);
        if (broken_ == "top_k") ids[x.rows * k - 1] ^= 1;
    }

private:
    void off(const char* operation, Activations out) {
        if (broken_ == operation) out.data[out.rows * out.cols - 1] += 0.5f;
    }
    std::unique_ptr<Backend> good_;
    std::string broken_;
};

inline const std::vector<std::string> plantable = {"embedding", "add_positions", "layer_norm", "rms_norm", "residual", "linear", "rotary",
    "kv_write", "kv_copy", "kv_import", "attention", "activation", "gather_rows", "take_columns", "put_columns", "top_k"};

}  // namespace glmd::acceptance
