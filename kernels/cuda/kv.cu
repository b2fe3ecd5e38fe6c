// Keys and values into the pool's blocks, in its type. A warp writes one head's key or value of one token.
#include "kernels/cuda/device.cuh"

namespace glmd::cuda {
namespace {

__global__ void __launch_bounds__(32) kv_write_kernel(KvLayer kv, const float* keys, const float* values, StepTables step, int* fault) {
    const int row = int(blockIdx.x), head = int(blockIdx.y), which = int(blockIdx.z), slot = step.slot[row], dim = kv.head_dim;
    const int sequence = step.sequence[row], column = slot / kv_block_tokens;
    const bool known = sequence >= 0 && sequence < step.sequences && slot >= 0 && column < step.max_blocks;
    const int block = known ? step.block_tables[std::int64_t(sequence) * step.max_blocks + column] : -1;
    if (block < 0 || block >= kv.blocks) {
        if (lane() == 0) atomicOr(fault, fault_slot);
        return;
    }
    const float* x = (which ? values : keys) + (std::int64_t(row) * kv.kv_heads + head) * dim;
    std::byte* at = kv.data + std::size_t(block) * kv.block_bytes + std::size_t(which * kv.kv_heads + head) * kv.head_bytes;
    const std::int64_t first = std::int64_t(slot % kv_block_tokens) * dim;
    if (kv.type == KvType::i8) {
        float largest = 0;
        for (int d = lane(); d < dim; d += 32) largest = fmaxf(largest, fabsf(x[d]));
        largest = warp_max(largest);
        const float inverse = largest > 0 ? 127 / largest : 0;
        for (int d = lane(); d < dim; d += 32)
            reinterpret_cast<std::int8_t*>(at)[first + d] = std::int8_t(__float2int_rn(fminf(fmaxf(x[d] * inverse, -127.0f), 127.0f)));
        if (lane() == 0) reinterpret_cast<float*>(at + std::size_t(dim) * kv_block_tokens)[slot % kv_block_tokens] = largest / 127;
    } else {
        for (int d = lane(); d < dim; d += 32)
            if (kv.type == KvType::f16) reinterpret_cast<__half*>(at)[first + d] = __float2half(x[d]);
            else reinterpret_cast<float*>(at)[first + d] = x[d];
    }
}

}  // namespace

void kv_write(const Queue& q, const KvLayer& kv, Activations keys, Activations values, const StepTables& step) {
    if (step.rows > 0)
        launch(kv_write_kernel, dim3(unsigned(step.rows), unsigned(kv.kv_heads), 2), 32, 0, q, kv, keys.data, values.data, step, q.fault);
}

}  // namespace glmd::cuda
