// Backend on a CUDA GPU: checks shapes, keeps memory, puts operations into one stream. Everything is asynchronous until download(),
// which is also where the device says what went wrong. What a step needs besides its buffers (quantized activations, widened
// weights, attention's parts) is scratch memory that only grows, so that a step like one before allocates nothing.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/packed.h"
#include "kernels/cuda/plugin.h"

namespace glmd {
namespace cuda {

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    const int code = int(error);
    const std::string why = cudaGetErrorString(error);
    if (error == cudaErrorMemoryAllocation) throw BackendError(std::string("insufficient memory: ") + what + " on the GPU (" + why + ")");
    // 700 … 720 are faults of kernels, after which a process' context is dead; 214 a memory error, 46 and 999 a device or driver gone.
    if ((code >= 700 && code <= 720) || code == 214 || code == 46 || code == 999)
        throw DeviceLost(std::string(what) + ": " + why + " (CUDA error " + std::to_string(code) + ")");
    throw BackendError(std::string(what) + ": " + why + " (CUDA error " + std::to_string(code) + ")");
}

static void check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_ALLOC_FAILED) throw BackendError(std::string("insufficient memory: ") + what + " on the GPU");
    if (status == CUBLAS_STATUS_SUCCESS) return;
    check(cudaGetLastError(), what);  // what lies behind it, if that can be known
    throw BackendError(std::string(what) + ": cuBLAS status " + std::to_string(int(status)));
}

namespace {

void require(bool condition, const char* what) {
    if (!condition) throw BackendError(what);
}
int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "the GPU can't be asked");
    return value;
}
std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

class DeviceMemory final : public Buffer {
public:
    DeviceMemory(cudaStream_t stream, std::size_t bytes) : stream_(stream), bytes_(bytes) {
        if (cudaMalloc(&data_, std::max<std::size_t>(bytes, 1)) != cudaSuccess) {
            const cudaError_t error = cudaGetLastError();
            check(error == cudaSuccess ? cudaErrorMemoryAllocation : error, (std::to_string(bytes >> 20) + " MiB can't be allocated").c_str());
        }
    }
    ~DeviceMemory() override {
        cudaStreamSynchronize(stream_);
        cudaFree(data_);
    }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    void* data() override { return data_; }
    std::size_t bytes() const override { return bytes_; }

private:
    cudaStream_t stream_;
    std::size_t bytes_;
    void* data_ = nullptr;
};

class CudaKvPool final : public KvPool {
public:
    CudaKvPool(cudaStream_t stream, KvShape shape, int blocks) : shape_(shape), blocks_(blocks), memory_(stream, shape.block_bytes() * std::size_t(blocks)) {}
    KvShape shape() const override { return shape_; }
    int blocks() const override { return blocks_; }
    KvLayer layer(int index) const {
        const std::size_t head = shape_.token_bytes() * kv_block_tokens;
        return {data() + std::size_t(index) * layer_bytes(), block_bytes(), head, blocks_, shape_.kv_heads, shape_.head_dim, shape_.type};
    }
    /// Of one layer.
    std::size_t block_bytes() const { return shape_.block_bytes() / std::size_t(shape_.layers); }
    std::size_t layer_bytes() const { return block_bytes() * std::size_t(blocks_); }
    std::byte* data() const { return static_cast<std::byte*>(memory_.data()); }
    std::size_t bytes() const { return memory_.bytes(); }

private:
    KvShape shape_;
    int blocks_;
    mutable DeviceMemory memory_;
};

/// Two pieces of pinned memory that take turns: the next one is filled while the last one is copied, and none is touched again
/// before the stream has read it.
class Staging {
public:
    static constexpr std::size_t piece = std::size_t(8) << 20;
    explicit Staging(cudaStream_t stream) : stream_(stream) {}
    ~Staging() { cudaStreamSynchronize(stream_); }
    void copy(void* target, std::size_t bytes, const Backend::Read& read) {
        for (std::size_t done = 0; done < bytes;) {
            Half& h = halves_[next_ ^= 1];
            check(cudaEventSynchronize(h.read), "a copy to the GPU failed");
            const std::size_t now = std::min(piece, bytes - done);
            read({static_cast<std::byte*>(h.data), now}, done);
            check(cudaMemcpyAsync(static_cast<std::byte*>(target) + done, h.data, now, cudaMemcpyHostToDevice, stream_), "a copy to the GPU failed");
            check(cudaEventRecord(h.read, stream_), "a copy to the GPU failed");
            done += now;
        }
    }

private:
    struct Half {
        Half() {
            check(cudaHostAlloc(&data, piece, cudaHostAllocDefault), "pinned memory can't be had");
            if (const cudaError_t error = cudaEventCreateWithFlags(&read, cudaEventDisableTiming)) {
                cudaFreeHost(data);
                check(error, "an event can't be had");
            }
        }
        ~Half() {
            cudaEventDestroy(read);
            cudaFreeHost(data);
        }
        Half(const Half&) = delete;
        Half& operator=(const Half&) = delete;
        void* data = nullptr;
        cudaEvent_t read = nullptr;
    };
    cudaStream_t stream_;
    Half halves_[2];
    int next_ = 0;
};

class CudaBackend final : public Backend {
public:
    explicit CudaBackend(const CudaDevice& device) : device_(device) {}
    /// Once, before anything else. What it has when it throws goes with the object.
    void start() {
        use();
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream can't be had");
        staging_ = std::make_unique<Staging>(stream_);
        fault_ = std::make_unique<DeviceMemory>(stream_, sizeof(int));
        check(cudaMemsetAsync(fault_->data(), 0, sizeof(int), stream_), "the GPU's memory can't be written");
        check(cudaHostAlloc(reinterpret_cast<void**>(&seen_fault_), sizeof(int), cudaHostAllocDefault), "pinned memory can't be had");
        queue_ = {stream_, device_.multiprocessors, static_cast<int*>(fault_->data())};
        check(cublasCreate(&cublas_), "cuBLAS can't start");
        check(cublasSetStream(cublas_, stream_), "cuBLAS can't start");
        constexpr std::size_t workspace = std::size_t(8) << 20;  // its own would be allocated while a step is recorded
        cublas_workspace_ = std::make_unique<DeviceMemory>(stream_, workspace);
        check(cublasSetWorkspace(cublas_, cublas_workspace_->data(), workspace), "cuBLAS can't start");
    }
    ~CudaBackend() override {
        if (stream_) cudaStreamSynchronize(stream_);
        forget_recordings();
        if (cublas_) cublasDestroy(cublas_);
        if (seen_fault_) cudaFreeHost(seen_fault_);
        cublas_workspace_.reset(), fault_.reset(), staging_.reset(), tickets_.reset(), scratch_.reset();
        if (stream_) cudaStreamDestroy(stream_);
    }

    std::string description() const override {
        return "cuda " + std::to_string(device_.index) + ", " + device_.name + ", sm_" + std::to_string(device_.compute);
    }
    bool reads_host_memory() const override { return device_.integrated && device_.coherent; }
    std::optional<std::size_t> memory_budget() const override {
        // An integrated GPU's free memory leaves out what the page cache would give back.
        if (device_.integrated) return {};
        std::size_t free = 0, total = 0;
        check(cudaMemGetInfo(&free, &total), "the GPU can't be asked");
        constexpr std::size_t ours = std::size_t(128) << 20;  // scratch
        return free > ours ? free - ours : 1;
    }

    std::unique_ptr<Buffer> allocate(std::size_t bytes) override {
        use();
        auto memory = std::make_unique<DeviceMemory>(stream_, bytes);
        if (bytes > 0) check(cudaMemsetAsync(memory->data(), 0, bytes, stream_), "the GPU's memory can't be written");
        return memory;
    }
    void upload(void* target, const void* host, std::size_t bytes) override {
        fill(target, bytes, [host](std::span<std::byte> piece, std::size_t offset) { std::memcpy(piece.data(), static_cast<const std::byte*>(host) + offset, piece.size()); });
    }
    void fill(void* target, std::size_t bytes, const Read& read) override {
        use();
        staging_->copy(target, bytes, read);
    }
    void download(void* host, const void* source, std::size_t bytes) override {
        use();
        if (bytes > 0) check(cudaMemcpyAsync(host, source, bytes, cudaMemcpyDeviceToHost, stream_), "a copy from the GPU failed");
        check(cudaMemcpyAsync(seen_fault_, fault_->data(), sizeof(int), cudaMemcpyDeviceToHost, stream_), "a copy from the GPU failed");
        check(cudaStreamSynchronize(stream_), "the GPU's work failed");
        if (const int fault = *seen_fault_) {
            check(cudaMemsetAsync(fault_->data(), 0, sizeof(int), stream_), "the GPU's memory can't be written");
            throw BackendError(fault & fault_slot ? "a row's KV block is outside the pool" : "a token, position or row is outside its table");
        }
    }
    std::unique_ptr<KvPool> make_kv_pool(KvShape shape, int blocks) override {
        require(shape.layers > 0 && shape.kv_heads > 0 && shape.head_dim > 0 && blocks > 0, "kv pool: empty shape");
        use();
        auto pool = std::make_unique<CudaKvPool>(stream_, shape, blocks);
        check(cudaMemsetAsync(pool->data(), 0, pool->bytes(), stream_), "the GPU's memory can't be written");
        return pool;
    }

    std::string pack_id() const override { return cuda_weight_layout().pack_id(); }
    PackFormat pack_format(DType type) const override { return cuda_weight_layout().pack_format(type); }
    std::size_t packed_bytes(PackFormat format, std::int64_t rows, std::int64_t cols) const override {
        return cuda_weight_layout().packed_bytes(format, rows, cols);
    }
    void pack(DType type, const std::byte* source, std::int64_t rows, std::int64_t cols, std::span<std::byte> out) const override {
        cuda_weight_layout().pack(type, source, rows, cols, out);
    }

    /// The first time operations run as they are, which brings scratch memory to its size; the second time they are recorded.
    void run_recorded(std::uint64_t key, const std::function<void()>& operations) override {
        Recording& r = recordings_[key];
        if (!r.warm) {
            operations();
            recordings_[key].warm = true;  // after what a grown scratch memory has forgotten
            return;
        }
        if (!r.graph) {
            check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "a step can't be recorded");
            cudaGraph_t graph = nullptr;
            try {
                operations();
            } catch (...) {
                cudaStreamEndCapture(stream_, &graph);
                if (graph) cudaGraphDestroy(graph);
                throw;
            }
            check(cudaStreamEndCapture(stream_, &graph), "a step can't be recorded");
            const cudaError_t error = cudaGraphInstantiate(&r.graph, graph, 0);
            cudaGraphDestroy(graph);
            if (error != cudaSuccess) r.graph = nullptr;
            check(error, "a recorded step can't be prepared");
        }
        check(cudaGraphLaunch(r.graph, stream_), "a recorded step can't run");
    }

    void embedding(Activations out, const Matrix& table, const std::int32_t* ids) override {
        require(fits(table, out.cols), "embedding: width");
        cuda::embedding(queue_, out, table, ids, false);
    }
    void add_positions(Activations x, const Matrix& table, const std::int32_t* positions) override {
        require(x.cols == table.cols, "add_positions: width");
        cuda::embedding(queue_, x, table, positions, true);
    }
    void layer_norm(Activations out, Activations x, Vector weight, Vector bias, float eps) override {
        require(same_shape(out, x) && weight.size == x.cols && (!bias || bias.size == x.cols), "layer_norm: shape");
        cuda::layer_norm(queue_, out, x, weight, bias, eps);
    }
    void rms_norm(Activations out, Activations x, Vector weight, float eps) override {
        require(same_shape(out, x) && weight.size == x.cols, "rms_norm: shape");
        cuda::rms_norm(queue_, out, x, weight, eps);
    }
    void residual(Activations out, Activations x, float alpha, Activations y) override {
        require(same_shape(out, x) && same_shape(x, y), "residual: shape");
        cuda::residual(queue_, out, x, alpha, y);
    }

    void linear(Activations out, Activations x, const Matrix& weight, Vector bias, Precision precision) override {
        require(out.rows == x.rows && fits(weight, x.cols) && out.cols == weight.rows, "linear: shape");
        require(!bias || bias.size == weight.rows, "linear: bias");
        require(weight.bytes >= packed_bytes(weight.format, weight.rows, weight.cols), "linear: weight too small");
        if (x.rows == 0) return;
        const bool plain = is_plain(weight.format), exact = precision == Precision::exact, fine = precision == Precision::fine;
        if ((plain || exact) && x.rows <= exact_rows) {
            multiply_exact(queue_, out, x, weight, bias);
        } else if (plain || exact || x.rows > multiply_rows) {
            exact || weight.format == PackFormat::f32 ? gemm_floats(out, x, weight, bias) : gemm_halves(out, x, weight, bias, fine);
        } else {
            const auto elements = std::size_t(x.rows * groups(weight.cols));
            Scratch s(*this, 2 * aligned(32 * elements) + 2 * aligned(sizeof(float) * elements));
            const QuantizedRows rows{s.take<std::int8_t>(32 * elements), s.take<std::int8_t>(32 * elements), s.take<float>(elements), s.take<float>(elements)};
            quantize(queue_, rows, x, weight.cols, fine);
            multiply(queue_, out, rows, weight, bias, fine);
        }
    }

    void rotary(Activations x, int head_dim, const Rotary& r, const std::int32_t* positions) override {
        require(head_dim > 0 && x.cols % head_dim == 0, "rotary: head size");
        require(r.offset >= 0 && r.dim % 2 == 0 && r.offset + r.dim <= head_dim, "rotary: range");
        cuda::rotary(queue_, x, head_dim, r, positions);
    }
    void kv_write(KvPool& kv, int layer, Activations keys, Activations values, const StepTables& step) override {
        const auto& pool = static_cast<const CudaKvPool&>(kv);
        const KvShape shape = pool.shape();
        const std::int64_t width = std::int64_t(shape.kv_heads) * shape.head_dim;
        require(keys.cols == width && values.cols == width && keys.rows == step.rows && values.rows == step.rows, "kv_write: shape");
        require(layer >= 0 && layer < shape.layers, "kv_write: layer");
        cuda::kv_write(queue_, pool.layer(layer), keys, values, step);
    }
    void kv_copy(KvPool& kv, int from_block, int to_block) override {
        const auto& pool = static_cast<const CudaKvPool&>(kv);
        check_block(pool, from_block);
        check_block(pool, to_block);
        if (from_block == to_block) return;
        use();
        const std::size_t bytes = pool.block_bytes();
        check(cudaMemcpy2DAsync(pool.data() + std::size_t(to_block) * bytes, pool.layer_bytes(), pool.data() + std::size_t(from_block) * bytes,
                                pool.layer_bytes(), bytes, std::size_t(pool.shape().layers), cudaMemcpyDeviceToDevice, stream_), "a KV block can't be copied");
    }
    void kv_export(const KvPool& kv, int block, std::span<std::byte> host) override {
        const auto& pool = static_cast<const CudaKvPool&>(kv);
        check_block(pool, block);
        require(host.size() == pool.shape().block_bytes(), "kv_export: size");
        use();
        const std::size_t bytes = pool.block_bytes();
        check(cudaMemcpy2DAsync(host.data(), bytes, pool.data() + std::size_t(block) * bytes, pool.layer_bytes(), bytes, std::size_t(pool.shape().layers),
                                cudaMemcpyDeviceToHost, stream_), "a KV block can't be copied");
        check(cudaStreamSynchronize(stream_), "a KV block can't be copied");
    }
    void kv_import(KvPool& kv, int block, std::span<const std::byte> host) override {
        const auto& pool = static_cast<const CudaKvPool&>(kv);
        check_block(pool, block);
        require(host.size() == pool.shape().block_bytes(), "kv_import: size");
        const std::size_t bytes = pool.block_bytes();
        for (int layer = 0; layer < pool.shape().layers; ++layer)
            upload(pool.data() + std::size_t(layer) * pool.layer_bytes() + std::size_t(block) * bytes, host.data() + std::size_t(layer) * bytes, bytes);
    }
    void attention(Activations out, Activations q, const KvPool& kv, int layer, const StepTables& step, float scale, const AttentionPrefix& prefix) override {
        const auto& pool = static_cast<const CudaKvPool&>(kv);
        const KvShape shape = pool.shape();
        const std::int64_t width = std::int64_t(shape.kv_heads) * shape.head_dim;
        require(same_shape(out, q) && q.rows == step.rows && q.cols > 0 && q.cols % width == 0, "attention: shape");
        require(layer >= 0 && layer < shape.layers, "attention: layer");
        if (step.rows == 0) return;
        const KvLayer in = pool.layer(layer);
        const std::size_t floats = attention_workspace(queue_, in, q.cols, step), tickets = std::size_t(step.single_rows) * std::size_t(q.cols / shape.head_dim) * sizeof(unsigned);
        if (tickets > 0 && (!tickets_ || tickets_->bytes() < tickets)) {
            grow(tickets_, tickets);
            check(cudaMemsetAsync(tickets_->data(), 0, tickets_->bytes(), stream_), "the GPU's memory can't be written");
        }
        Scratch s(*this, floats * sizeof(float));
        cuda::attention(queue_, out, q, in, step, scale, prefix, s.take<float>(floats), tickets_ ? static_cast<unsigned*>(tickets_->data()) : nullptr);
    }
    void activation(Activations out, Activations x, Function function, Gate gate) override {
        require(out.rows == x.rows && x.cols == (gate == Gate::none ? out.cols : 2 * out.cols), "activation: shape");
        cuda::activation(queue_, out, x, function, gate);
    }
    void gather_rows(Activations out, Activations x, const std::int32_t* rows) override {
        require(out.cols == x.cols, "gather_rows: width");
        copy_columns(queue_, out, 0, x, 0, out.cols, rows);
    }
    void take_columns(Activations out, Activations x, std::int64_t first) override {
        require(out.rows == x.rows && first >= 0 && first + out.cols <= x.cols, "take_columns: range");
        copy_columns(queue_, out, 0, x, first, out.cols, nullptr);
    }
    void put_columns(Activations out, Activations x, std::int64_t first) override {
        require(out.rows == x.rows && first >= 0 && first + x.cols <= out.cols, "put_columns: range");
        copy_columns(queue_, out, first, x, 0, x.cols, nullptr);
    }
    void top_k(Activations x, int k, std::int32_t* ids, float* values) override {
        require(k > 0 && k <= x.cols, "top_k: k");
        cuda::top_k(queue_, x, k, ids, values);
    }

private:
    struct Recording {
        bool warm = false;
        cudaGraphExec_t graph = nullptr;
    };

    /// Scratch memory of one operation. Operations run one after the other, so all may use the same.
    class Scratch {
    public:
        Scratch(CudaBackend& b, std::size_t bytes) {
            if (bytes > 0 && (!b.scratch_ || b.scratch_->bytes() < bytes)) b.grow(b.scratch_, bytes);
            if (b.scratch_) at_ = static_cast<std::byte*>(b.scratch_->data());
        }
        template <class T>
        T* take(std::size_t count) {
            return reinterpret_cast<T*>(std::exchange(at_, at_ + aligned(count * sizeof(T))));
        }

    private:
        std::byte* at_ = nullptr;
    };

    /// Recorded steps point into what is replaced.
    void grow(std::unique_ptr<DeviceMemory>& memory, std::size_t bytes) {
        check(cudaStreamSynchronize(stream_), "the GPU's work failed");
        forget_recordings();
        const std::size_t wanted = std::max(bytes, memory ? memory->bytes() + memory->bytes() / 2 : 0);
        memory.reset();
        memory = std::make_unique<DeviceMemory>(stream_, wanted);
    }
    void forget_recordings() {
        for (auto& [key, r] : recordings_)
            if (r.graph) cudaGraphExecDestroy(r.graph);
        recordings_.clear();
    }

    /// CUDA's current device is a thread's own. Whoever has a step run has uploaded something before, on the same thread.
    void use() const {
        thread_local int current = -1;
        if (std::exchange(current, device_.index) != device_.index) check(cudaSetDevice(device_.index), "the GPU can't be used");
    }

    static bool same_shape(Activations a, Activations b) { return a.rows == b.rows && a.cols == b.cols; }
    static void check_block(const CudaKvPool& pool, int block) { require(block >= 0 && block < pool.blocks(), "no such kv block"); }
    /// Quantized rows are stored in whole groups of 32 columns; activations may be up to 31 narrower.
    static bool fits(const Matrix& weight, std::int64_t cols) {
        return cols == weight.cols || (!is_plain(weight.format) && cols < weight.cols && weight.cols - cols < 32);
    }

    /// Outputs at once when weights are widened: some megabytes, which large caches keep.
    static std::int64_t slab_rows(std::int64_t rows, std::int64_t row_bytes) {
        constexpr std::int64_t slab = std::int64_t(32) << 20;
        return std::clamp<std::int64_t>(slab / row_bytes / 64 * 64, 64, rows);
    }
    /// out[:, first …] = keep * out + x W^T for `rows` outputs; all row-major, which cuBLAS sees as transposed.
    void gemm(Activations out, std::int64_t first, std::int64_t rows, const void* w, std::int64_t w_pitch, const void* x, std::int64_t x_pitch,
              std::int64_t cols, cudaDataType_t type, float keep) {
        const float one = 1;
        const auto compute = type == CUDA_R_16F ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_PEDANTIC;
        check(cublasGemmEx(cublas_, CUBLAS_OP_T, CUBLAS_OP_N, int(rows), int(out.rows), int(cols), &one, w, type, int(w_pitch), x, type, int(x_pitch), &keep,
                           out.data + first, CUDA_R_32F, int(out.cols), compute, CUBLAS_GEMM_DEFAULT), "a matrix product failed");
    }
    void gemm_floats(Activations out, Activations x, const Matrix& w, Vector bias) {
        if (w.format == PackFormat::f32) {
            gemm(out, 0, w.rows, w.data, pitch(w.format, w.cols), x.data, x.cols, x.cols, CUDA_R_32F, 0);
        } else {
            const std::int64_t at_once = slab_rows(w.rows, w.cols * 4);
            Scratch s(*this, std::size_t(at_once * w.cols) * 4);
            auto* slab = s.take<float>(std::size_t(at_once * w.cols));
            for (std::int64_t first = 0; first < w.rows; first += at_once) {
                const std::int64_t rows = std::min(at_once, w.rows - first);
                widen(queue_, slab, w, first, rows, w.cols);
                gemm(out, first, rows, slab, w.cols, x.data, x.cols, x.cols, CUDA_R_32F, 0);
            }
        }
        finish(queue_, out, nullptr, bias);
    }
    void gemm_halves(Activations out, Activations x, const Matrix& w, Vector bias, bool fine) {
        const bool stored = w.format == PackFormat::f16;
        const std::int64_t wide = pitch(PackFormat::f16, w.cols), at_once = stored ? w.rows : slab_rows(w.rows, wide * 2);
        const auto elements = std::size_t(x.rows * wide), slab_elements = stored ? 0 : std::size_t(at_once * wide);
        Scratch s(*this, 2 * aligned(2 * elements) + aligned(sizeof(float) * std::size_t(x.rows)) + 2 * slab_elements);
        const HalfRows halves{s.take<__half>(elements), s.take<__half>(elements), s.take<float>(std::size_t(x.rows))};
        auto* slab = s.take<__half>(slab_elements);
        to_halves(queue_, halves, x, wide, fine);
        for (std::int64_t first = 0; first < w.rows; first += at_once) {
            const std::int64_t rows = std::min(at_once, w.rows - first);
            const void* weights = w.data;
            if (!stored) {
                widen(queue_, slab, w, first, rows, wide);
                weights = slab;
            }
            gemm(out, first, rows, weights, wide, halves.high, wide, x.cols, CUDA_R_16F, 0);
            if (fine) gemm(out, first, rows, weights, wide, halves.low, wide, x.cols, CUDA_R_16F, 1);
        }
        finish(queue_, out, halves.scales, bias);
    }

    CudaDevice device_;
    cudaStream_t stream_ = nullptr;
    cublasHandle_t cublas_ = nullptr;
    std::unique_ptr<Staging> staging_;
    std::unique_ptr<DeviceMemory> fault_, cublas_workspace_, scratch_, tickets_;
    int* seen_fault_ = nullptr;  // pinned
    Queue queue_{};
    std::map<std::uint64_t, Recording> recordings_;
};

std::vector<CudaDevice> devices() {
    int count = 0, driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) throw BackendError("there is no NVIDIA driver");
    check(cudaRuntimeGetVersion(&runtime), "CUDA can't be asked");
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver)
        throw BackendError("the NVIDIA driver is for CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) + ", and this glmd for " +
                           std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10));
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) throw BackendError("there is no NVIDIA GPU that this process may use");
    check(error, "the GPUs can't be counted");
    std::vector<CudaDevice> all;
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp p;
        check(cudaGetDeviceProperties(&p, i), "the GPU can't be asked");
        CudaDevice d;
        d.index = i;
        d.name = p.name;
        d.memory = p.totalGlobalMem;
        d.compute = 10 * attribute(cudaDevAttrComputeCapabilityMajor, i) + attribute(cudaDevAttrComputeCapabilityMinor, i);
        d.driver = driver, d.runtime = runtime;
        d.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, i);
        d.integrated = attribute(cudaDevAttrIntegrated, i);
        d.coherent = attribute(cudaDevAttrPageableMemoryAccess, i) && attribute(cudaDevAttrPageableMemoryAccessUsesHostPageTables, i);
        all.push_back(d);
    }
    return all;
}

std::unique_ptr<Backend> make(int index) {
    const auto all = devices();
    if (index < 0 || std::size_t(index) >= all.size())
        throw BackendError("there is no CUDA device " + std::to_string(index) + ", only " + std::to_string(all.size()));
    const CudaDevice& d = all[std::size_t(index)];
    if (d.compute < 75) throw BackendError(d.name + " is sm_" + std::to_string(d.compute) + ", and glmd needs sm_75 at least");
    auto backend = std::make_unique<CudaBackend>(d);
    backend->start();
    return backend;
}

}  // namespace
}  // namespace cuda
}  // namespace glmd

extern "C" __attribute__((visibility("default"))) const glmd::CudaPlugin* glmd_cuda_plugin() {
    static const glmd::CudaPlugin plugin{glmd::cuda_plugin_interface, GLMD_VERSION, glmd::cuda::devices, glmd::cuda::make};
    return &plugin;
}
