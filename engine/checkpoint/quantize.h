#pragma once
// Rows of floats to Q8_0 and Q4_0. x.size() is a multiple of 32. False: a value isn't finite, or is too large for a half scale.
#include <cstddef>
#include <cstdint>
#include <span>

namespace glmd {

bool quantize_q8_0(std::span<const float> x, std::byte* out);
/// The fp16 scale of each group is searched for the least squared error, large values counting more; the squared error is
/// never worse than quantize_q4_0_plain()'s.
bool quantize_q4_0(std::span<const float> x, std::byte* out);
/// GGML's rule: the value of largest magnitude becomes -8.
bool quantize_q4_0_plain(std::span<const float> x, std::byte* out);

// Blocks from integers that somebody else quantized; q in -8 … 7 and -128 … 127; `scale` is an IEEE half.
void write_q4_0_block(const std::int8_t* q, std::uint16_t scale, std::byte* out);
void write_q8_0_block(const std::int8_t* q, std::uint16_t scale, std::byte* out);

}  // namespace glmd
