#pragma once
// What the machine itself allows at this moment, whatever runs on it: our figures are quoted beside these. On shared machines
// they change from minute to minute.
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kernels/huge_pages.h"

namespace glmd {

/// Main memory kept for being read. One thread at a time may use it.
class MemoryProbe {
public:
    /// Takes what no cache holds, about 1 GiB and at most `most` bytes, in huge pages where the system gives them. BackendError
    /// when there isn't that much.
    MemoryProbe(int threads, std::size_t most);

    std::size_t bytes() const { return memory_.bytes(); }  // resident
    /// Bytes a second that all threads read together; takes 0.2 s.
    double bandwidth();

private:
    int threads_;
    HugePages memory_;
    std::vector<std::size_t> at_;  // piece to read next, by thread
};

/// Bytes a second that the calling thread reads here, each once.
double read_rate(std::span<const std::byte> memory);

/// The processor's last cache, which reads faster than memory does; 0: unknown.
std::size_t last_cache_bytes();

/// Ways to multiply 8-bit numbers that this processor has, best first, named as the instruction sets that use them.
std::vector<std::string> int8_loops();
/// Multiplications a second of one of these, all threads together; takes 0.05 s.
double int8_rate(const std::string& loop, int threads);

}  // namespace glmd
