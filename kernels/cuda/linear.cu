// Matrix products with packed weights. Three kinds, by the rows of x:
//   1            a warp's lanes walk along a row of weights, each a chunk's quarter, dp4a against 8-bit activations
//   2 … 64       tensor cores on the same bytes: mma.m16n8k32 of 16 outputs x 8 rows of x x one group; the weights are read once
//   more         weights are widened, some megabytes at a time, and given to cuBLAS (cuda_backend.cpp)
// and, for f32 arithmetic and plain weights with few rows, a warp per output that widens what it reads.
#include "kernels/cuda/device.cuh"

namespace glmd::cuda {
namespace {

constexpr int warps = 4, threads = 32 * warps;

// ---- activations

/// A block is a chunk of a row, a warp one of its groups.
template <bool fine>
__global__ void __launch_bounds__(threads) quantize_kernel(QuantizedRows out, const float* x, std::int64_t cols, std::int64_t groups) {
    const std::int64_t row = blockIdx.y, group = std::int64_t(blockIdx.x) * 4 + warp(), c = group * 32 + lane();
    const float value = c < cols ? x[row * cols + c] : 0.0f, most = fine ? 127.0f * 128 : 127.0f;
    float largest = warp_max(fabsf(value));
    if (!(largest > 1e-30f)) largest = 0;
    const float inverse = largest > 0 ? most / largest : 0.0f, scale = largest / most;
    const int q = __float2int_rn(fmaxf(fminf(value * inverse, most), -most)), high = fine ? (q + 64) >> 7 : q, sum = warp_sum(q);
    const std::int64_t at = row * groups * 32 + activation_index(group, lane());
    out.high[at] = std::int8_t(high);
    if (fine) out.low[at] = std::int8_t(q - 128 * high);
    if (lane() == 0) {
        out.scales[row * groups + group] = scale;
        out.sums[row * groups + group] = scale * float(sum);
    }
}

constexpr int row_threads = 256;

template <bool fine>
__global__ void __launch_bounds__(row_threads) halves_kernel(HalfRows out, const float* x, std::int64_t cols, std::int64_t pitch) {
    GLMD_SHARED(float, parts, [row_threads / 32]);
    const std::int64_t row = blockIdx.x;
    x += row * cols;
    float largest = 0;
    for (std::int64_t c = threadIdx.x; c < cols; c += row_threads) largest = fmaxf(largest, fabsf(x[c]));
    largest = warp_max(largest);
    if (lane() == 0) parts[warp()] = largest;
    __syncthreads();
    for (int i = 0; i < row_threads / 32; ++i) largest = fmaxf(largest, parts[i]);
    // The power of two below: what is divided by it is below 2, exactly.
    const float scale = largest > 1e-30f && largest < 1e38f ? __uint_as_float(__float_as_uint(largest) & 0x7f800000u) : 1.0f, inverse = 1.0f / scale;
    for (std::int64_t c = threadIdx.x; c < pitch; c += row_threads) {
        const float value = c < cols ? x[c] * inverse : 0.0f;
        const __half high = __float2half(value);
        out.high[row * pitch + c] = high;
        if (fine) out.low[row * pitch + c] = __float2half(value - __half2float(high));
    }
    if (threadIdx.x == 0) out.scales[row] = scale;
}

// ---- a lane's share of a chunk

struct Words {
    unsigned group[4];
};
GLMD_DEVICE Words load_words(const void* p) {
    const uint4 v = *static_cast<const uint4*>(p);
    return {{v.x, v.y, v.z, v.w}};
}
/// The lane's columns of the first (half 0) and the second 16 columns of a chunk of 8-bit numbers.
GLMD_DEVICE Words load_bytes(const void* row, std::int64_t chunk, int half, int t) {
    return load_words(static_cast<const std::uint8_t*>(row) + chunk * 128 + half * 64 + t * 16);
}

/// Signed bytes of a lane's columns of a chunk's four groups: the weights, those of 4 bits times 16.
struct Lane {
    Words first, second;
};
template <PackFormat format>
GLMD_DEVICE Lane load_weights(const Weights& w, std::int64_t row, std::int64_t chunk, int t) {
    const std::uint8_t* at = w.quants + std::size_t(row) * w.row_bytes;
    if constexpr (is_nibbles(format)) {
        const Words v = load_words(at + chunk * 64 + t * 16);
        Lane l;
#pragma unroll
        for (int j = 0; j < 4; ++j) l.first.group[j] = v.group[j] << 4 & 0xf0f0f0f0u, l.second.group[j] = v.group[j] & 0xf0f0f0f0u;
        return l;
    } else {
        return {load_bytes(at, chunk, 0, t), load_bytes(at, chunk, 1, t)};
    }
}

GLMD_DEVICE float2 halves_of(unsigned bits) {
    __half2 h;
    memcpy(&h, &bits, 4);
    return __half22float2(h);
}
/// A chunk's scales, of weights as load_weights() gives them, and what is to be added per unit of the activations' sums.
struct Scales {
    float scale[4], minimum[4];
};
template <PackFormat format>
GLMD_DEVICE Scales load_scales(const Weights& w, std::int64_t row, std::int64_t chunk) {
    const std::uint8_t* at = w.scales + std::size_t(row * w.groups + chunk * 4) * scale_bytes(format);
    Scales s{};
    if constexpr (format == PackFormat::q8m) {
        const float4 a = *reinterpret_cast<const float4*>(at), b = *reinterpret_cast<const float4*>(at + 16);
        s = {{a.x, a.z, b.x, b.z}, {a.y, a.w, b.y, b.w}};
    } else if constexpr (format == PackFormat::q4m) {
        const Words v = load_words(at);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 pair = halves_of(v.group[j]);
            s.scale[j] = pair.x / 16, s.minimum[j] = pair.y + 8 * pair.x;
        }
    } else {
        const uint2 v = *reinterpret_cast<const uint2*>(at);
        const float2 a = halves_of(v.x), b = halves_of(v.y);
        s = {{a.x, a.y, b.x, b.y}, {}};
        if constexpr (is_nibbles(format))
            for (float& x : s.scale) x /= 16;
    }
    return s;
}

GLMD_DEVICE int dot(const Lane& w, const Words& first, const Words& second, int j) {
    return __dp4a(int(w.second.group[j]), int(second.group[j]), __dp4a(int(w.first.group[j]), int(first.group[j]), 0));
}

// ---- one row of x

constexpr int outputs_at_once = 4;  // loads in flight for each of x

template <PackFormat format, bool fine>
__global__ void __launch_bounds__(threads) multiply_one_kernel(float* out, QuantizedRows x, Weights w, const float* bias) {
    GLMD_SHARED(float, parts, [warps][outputs_at_once]);
    const int t = lane() % 4;
    const std::int64_t row0 = std::int64_t(blockIdx.x) * outputs_at_once, chunks = w.groups / 4;
    float sum[outputs_at_once] = {};
    for (std::int64_t chunk = warp() * 8 + lane() / 4; chunk < chunks; chunk += warps * 8) {
        const Words high0 = load_bytes(x.high, chunk, 0, t), high1 = load_bytes(x.high, chunk, 1, t);
        Words low0{}, low1{};
        if constexpr (fine) low0 = load_bytes(x.low, chunk, 0, t), low1 = load_bytes(x.low, chunk, 1, t);
        const float4 s = *reinterpret_cast<const float4*>(x.scales + chunk * 4);
        const float scales[4] = {s.x, s.y, s.z, s.w};
        float sums[4] = {};
        if constexpr (has_minimum(format)) {  // each of the four lanes has a group's share of a quarter
            const float4 v = *reinterpret_cast<const float4*>(x.sums + chunk * 4);
            sums[0] = v.x / 4, sums[1] = v.y / 4, sums[2] = v.z / 4, sums[3] = v.w / 4;
        }
#pragma unroll
        for (int r = 0; r < outputs_at_once; ++r) {
            const std::int64_t row = row0 + r < w.rows ? row0 + r : w.rows - 1;
            const Lane weights = load_weights<format>(w, row, chunk, t);
            const Scales scale = load_scales<format>(w, row, chunk);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int product = dot(weights, high0, high1, j);
                if constexpr (fine) product = 128 * product + dot(weights, low0, low1, j);
                sum[r] += float(product) * (scale.scale[j] * scales[j]);
                if constexpr (has_minimum(format)) sum[r] += scale.minimum[j] * sums[j];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < outputs_at_once; ++r) {
        sum[r] = warp_sum(sum[r]);
        if (lane() == 0) parts[warp()][r] = sum[r];
    }
    __syncthreads();
    const int r = int(threadIdx.x);
    if (r < outputs_at_once && row0 + r < w.rows) {
        float y = bias ? bias[row0 + r] : 0.0f;
        for (int i = 0; i < warps; ++i) y += parts[i][r];
        out[row0 + r] = y;
    }
}

// ---- up to 64 rows of x: a block is 16 outputs, its warps share the columns

template <PackFormat format, bool fine, int tiles>  // of 8 rows of x
__global__ void __launch_bounds__(threads) multiply_kernel(float* out, int rows, QuantizedRows x, Weights w, const float* bias) {
    GLMD_SHARED(float, parts, [warps][8 * tiles][16]);
    const int g = lane() / 4, t = lane() % 4;
    const std::int64_t row0 = std::int64_t(blockIdx.x) * 16, chunks = w.groups / 4, last = w.rows - 1;
    const std::int64_t row_a = row0 + g < last ? row0 + g : last, row_b = row0 + g + 8 < last ? row0 + g + 8 : last;
    float sum[tiles][4] = {};
    for (std::int64_t chunk = warp(); chunk < chunks; chunk += warps) {
        const Lane a = load_weights<format>(w, row_a, chunk, t), b = load_weights<format>(w, row_b, chunk, t);
        const Scales scale_a = load_scales<format>(w, row_a, chunk), scale_b = load_scales<format>(w, row_b, chunk);
#pragma unroll
        for (int n = 0; n < tiles; ++n) {
            const std::int64_t mine = 8 * n + g < rows ? 8 * n + g : rows - 1, bytes = mine * w.groups * 32;
            const Words high0 = load_bytes(x.high + bytes, chunk, 0, t), high1 = load_bytes(x.high + bytes, chunk, 1, t);
            Words low0{}, low1{};
            if constexpr (fine) low0 = load_bytes(x.low + bytes, chunk, 0, t), low1 = load_bytes(x.low + bytes, chunk, 1, t);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const std::uint32_t fragment[4] = {a.first.group[j], b.first.group[j], a.second.group[j], b.second.group[j]};
                const std::uint32_t high[2] = {high0.group[j], high1.group[j]};
                int d[4] = {};
                mma_s8(d, fragment, high);
                if constexpr (fine) {
                    const std::uint32_t low[2] = {low0.group[j], low1.group[j]};
                    int e[4] = {};
                    mma_s8(e, fragment, low);
#pragma unroll
                    for (int i = 0; i < 4; ++i) d[i] = 128 * d[i] + e[i];
                }
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const int column = 8 * n + 2 * t + c < rows ? 8 * n + 2 * t + c : rows - 1;
                    const std::int64_t at = column * w.groups + chunk * 4 + j;
                    sum[n][c] += float(d[c]) * (scale_a.scale[j] * x.scales[at]);
                    sum[n][c + 2] += float(d[c + 2]) * (scale_b.scale[j] * x.scales[at]);
                    if constexpr (has_minimum(format)) {
                        sum[n][c] += scale_a.minimum[j] * x.sums[at];
                        sum[n][c + 2] += scale_b.minimum[j] * x.sums[at];
                    }
                }
            }
        }
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) parts[warp()][8 * n + 2 * t + i % 2][g + i / 2 * 8] = sum[n][i];
    __syncthreads();
    for (int i = int(threadIdx.x); i < 16 * 8 * tiles; i += threads) {
        const int output = i % 16, row = i / 16;
        if (row >= rows || row0 + output >= w.rows) continue;
        float y = bias ? bias[row0 + output] : 0.0f;
        for (int k = 0; k < warps; ++k) y += parts[k][row][output];
        out[row * w.rows + row0 + output] = y;
    }
}

// ---- f32 arithmetic, few rows: a warp is an output

template <int most>
__global__ void __launch_bounds__(threads) exact_kernel(float* out, const float* x, std::int64_t cols, int rows, Weights w, const float* bias) {
    const std::int64_t output = std::int64_t(blockIdx.x) * warps + warp();
    if (output >= w.rows) return;
    float sum[most] = {};
    for (std::int64_t c = lane(); c < cols; c += 32) {
        const float weight = weight_at(w, output, c);
#pragma unroll
        for (int r = 0; r < most; ++r)
            if (r < rows) sum[r] += weight * x[r * cols + c];
    }
#pragma unroll
    for (int r = 0; r < most; ++r) {
        const float y = warp_sum(sum[r]);
        if (lane() == 0 && r < rows) out[r * w.rows + output] = bias ? y + bias[output] : y;
    }
}

/// Plain weights, 16 bytes a lane; rows of weights are filled up with zeros.
template <class T, int most>
__global__ void __launch_bounds__(threads) plain_kernel(float* out, const float* x, std::int64_t cols, int rows, Weights w, const float* bias) {
    constexpr int width = 16 / sizeof(T);
    const std::int64_t output = std::int64_t(blockIdx.x) * warps + warp();
    if (output >= w.rows) return;
    const std::uint8_t* from = w.quants + std::size_t(output) * w.row_bytes;
    float sum[most] = {};
    for (std::int64_t c = lane() * width; c < cols; c += 32 * width) {
        const Words bits = load_words(from + c * std::int64_t(sizeof(T)));
        float weight[width];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (sizeof(T) == 2) {
                const float2 pair = halves_of(bits.group[j]);
                weight[2 * j] = pair.x, weight[2 * j + 1] = pair.y;
            } else {
                weight[j] = __uint_as_float(bits.group[j]);
            }
        }
#pragma unroll
        for (int i = 0; i < width; ++i)
#pragma unroll
            for (int r = 0; r < most; ++r)
                if (r < rows && c + i < cols) sum[r] += weight[i] * x[r * cols + c + i];
    }
#pragma unroll
    for (int r = 0; r < most; ++r) {
        const float y = warp_sum(sum[r]);
        if (lane() == 0 && r < rows) out[r * w.rows + output] = bias ? y + bias[output] : y;
    }
}

// ---- more rows: what surrounds cuBLAS

GLMD_DEVICE void store(float& to, float x) { to = x; }
GLMD_DEVICE void store(__half& to, float x) { to = __float2half(x); }

/// A thread widens what a lane has of a group: four columns, and the four 16 behind.
template <class T>
__global__ void __launch_bounds__(threads) widen_kernel(T* out, Weights w, std::int64_t first, std::int64_t pitch) {
    const std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x, group = i / 4, row = blockIdx.y;
    const int t = int(i % 4);
    if (group >= w.cols / 32) return;
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 4; ++i) {
            const std::int64_t c = group * 32 + half * 16 + t * 4 + i;
            store(out[row * pitch + c], weight_at(w, first + row, c));
        }
}
template <class T>
__global__ void __launch_bounds__(threads) widen_plain_kernel(T* out, Weights w, std::int64_t first, std::int64_t pitch) {
    const std::int64_t c = std::int64_t(blockIdx.x) * threads + threadIdx.x, row = blockIdx.y;
    if (c < pitch) store(out[row * pitch + c], c < w.cols ? weight_at(w, first + row, c) : 0.0f);
}

__global__ void __launch_bounds__(threads) finish_kernel(float* out, std::int64_t rows, std::int64_t cols, const float* scales, const float* bias) {
    const std::int64_t i = std::int64_t(blockIdx.x) * threads + threadIdx.x, row = i / cols;
    if (row >= rows) return;
    const float y = scales ? out[i] * scales[row] : out[i];
    out[i] = bias ? y + bias[i % cols] : y;
}

unsigned parts_of(std::int64_t n, std::int64_t size) { return unsigned((n + size - 1) / size); }

template <class T>
void widen_rows(const Queue& q, T* out, const Matrix& w, std::int64_t first, std::int64_t rows, std::int64_t pitch) {
    constexpr std::int64_t most = 32768;  // of a grid's second dimension
    for (std::int64_t done = 0; done < rows; done += most) {
        const unsigned now = unsigned(rows - done < most ? rows - done : most);
        if (is_plain(w.format)) launch(widen_plain_kernel<T>, dim3(parts_of(pitch, threads), now), threads, 0, q, out + done * pitch, view(w), first + done, pitch);
        else launch(widen_kernel<T>, dim3(parts_of(w.cols / 8, threads), now), threads, 0, q, out + done * pitch, view(w), first + done, pitch);
    }
}

template <PackFormat format, bool fine>
void multiply_as(const Queue& q, Activations out, const QuantizedRows& x, const Weights& w, const float* bias) {
    const int rows = int(out.rows);
    if (rows == 1) return launch(multiply_one_kernel<format, fine>, dim3(parts_of(w.rows, outputs_at_once)), threads, 0, q, out.data, x, w, bias);
    const dim3 grid(parts_of(w.rows, 16));
    const auto kernel = rows <= 8 ? multiply_kernel<format, fine, 1> : rows <= 16 ? multiply_kernel<format, fine, 2>
                        : rows <= 32 ? multiply_kernel<format, fine, 4> : multiply_kernel<format, fine, 8>;
    launch(kernel, grid, threads, 0, q, out.data, rows, x, w, bias);
}
template <PackFormat format>
void multiply_as(const Queue& q, Activations out, const QuantizedRows& x, const Weights& w, const float* bias, bool fine) {
    fine ? multiply_as<format, true>(q, out, x, w, bias) : multiply_as<format, false>(q, out, x, w, bias);
}

template <int most>
void multiply_exact_as(const Queue& q, Activations out, Activations x, const Matrix& w, Vector bias) {
    const auto kernel = w.format == PackFormat::f16 ? plain_kernel<__half, most> : w.format == PackFormat::f32 ? plain_kernel<float, most> : exact_kernel<most>;
    launch(kernel, dim3(parts_of(w.rows, warps)), threads, 0, q, out.data, x.data, x.cols, int(x.rows), view(w), bias.data);
}

}  // namespace

void quantize(const Queue& q, QuantizedRows out, Activations x, std::int64_t cols, bool fine) {
    const std::int64_t all = groups(cols);
    launch(fine ? quantize_kernel<true> : quantize_kernel<false>, dim3(unsigned(all / 4), unsigned(x.rows)), threads, 0, q, out, x.data, x.cols, all);
}

void to_halves(const Queue& q, HalfRows out, Activations x, std::int64_t pitch, bool fine) {
    launch(fine ? halves_kernel<true> : halves_kernel<false>, dim3(unsigned(x.rows)), row_threads, 0, q, out, x.data, x.cols, pitch);
}

void multiply(const Queue& q, Activations out, const QuantizedRows& x, const Matrix& w, Vector bias, bool fine) {
    switch (w.format) {
    case PackFormat::q4: return multiply_as<PackFormat::q4>(q, out, x, view(w), bias.data, fine);
    case PackFormat::q4m: return multiply_as<PackFormat::q4m>(q, out, x, view(w), bias.data, fine);
    case PackFormat::q8: return multiply_as<PackFormat::q8>(q, out, x, view(w), bias.data, fine);
    case PackFormat::q8m: return multiply_as<PackFormat::q8m>(q, out, x, view(w), bias.data, fine);
    default: throw BackendError("multiply: plain weights");
    }
}

void multiply_exact(const Queue& q, Activations out, Activations x, const Matrix& w, Vector bias) {
    x.rows == 1 ? multiply_exact_as<1>(q, out, x, w, bias) : x.rows == 2 ? multiply_exact_as<2>(q, out, x, w, bias)
    : x.rows <= 4 ? multiply_exact_as<4>(q, out, x, w, bias) : multiply_exact_as<8>(q, out, x, w, bias);
}

void widen(const Queue& q, float* out, const Matrix& w, std::int64_t first, std::int64_t rows, std::int64_t pitch) { widen_rows(q, out, w, first, rows, pitch); }
void widen(const Queue& q, __half* out, const Matrix& w, std::int64_t first, std::int64_t rows, std::int64_t pitch) { widen_rows(q, out, w, first, rows, pitch); }

void finish(const Queue& q, Activations out, const float* scales, Vector bias) {
    if (scales || bias) launch(finish_kernel, dim3(parts_of(out.rows * out.cols, threads)), threads, 0, q, out.data, out.rows, out.cols, scales, bias.data);
}

}  // namespace glmd::cuda
