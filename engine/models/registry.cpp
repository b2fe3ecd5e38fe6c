// The explicit list of model families, and the pieces that they share.
#include <cmath>
#include <cstring>

#include "engine/models/model.h"

namespace glmd {

extern const ModelFamily llama_family, chatglm_family, glm4_family;

namespace {
const ModelFamily* const families[] = {&llama_family, &chatglm_family, &glm4_family};
}

const ModelFamily* find_family(std::string_view architecture) {
    for (const ModelFamily* f : families)
        if (architecture == f->architecture) return f;
    return nullptr;
}

std::string known_architectures() {
    std::string names;
    for (const ModelFamily* f : families) names += (names.empty() ? "" : ", ") + std::string(f->architecture);
    return names;
}

float* Workspace::take(std::int64_t rows, std::int64_t cols) {
    buffers_.push_back(backend_->allocate(std::size_t(rows) * cols * sizeof(float)));
    bytes_ += buffers_.back()->bytes();
    return static_cast<float*>(buffers_.back()->data());
}

std::unique_ptr<Buffer> rotary_table(Backend& backend, int positions, int dim, double theta,
                                     const std::vector<double>& factors) {
    const int half = dim / 2;
    std::vector<float> table(std::size_t(positions) * half * 2);
    for (int i = 0; i < half; ++i) {
        // Upstream computes the frequency in float; doing the same keeps large positions equal to it.
        const float frequency = static_cast<float>(std::pow(theta, -2.0 * i / dim) / (factors.empty() ? 1.0 : factors[i]));
        for (int p = 0; p < positions; ++p) {
            const float angle = static_cast<float>(p) * frequency;
            table[(std::size_t(p) * half + i) * 2] = static_cast<float>(std::cos(double(angle)));
            table[(std::size_t(p) * half + i) * 2 + 1] = static_cast<float>(std::sin(double(angle)));
        }
    }
    auto buffer = backend.allocate(table.size() * sizeof(float));
    backend.upload(buffer->data(), table.data(), table.size() * sizeof(float));
    return buffer;
}

void apply(Backend& backend, Activations out, Activations x, const Linear& linear, Precision precision, float* scratch) {
    if (linear.parts.size() == 1) return backend.linear(out, x, linear.parts[0], linear.bias, precision);
    std::int64_t first = 0;
    for (const Matrix& part : linear.parts) {
        const Vector bias = linear.bias ? Vector{linear.bias.data + first, part.rows} : Vector{};
        const Activations piece{scratch, x.rows, part.rows};
        backend.linear(piece, x, part, bias, precision);
        backend.put_columns(out, piece, first);
        first += part.rows;
    }
}

}  // namespace glmd
