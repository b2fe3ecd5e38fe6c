#pragma once
#include <functional>
#include <string>

#include "engine/checkpoint/gguf.h"

namespace glmd {

/// The sentence of the ModelError that `work` throws; empty if it throws none.
inline std::string error_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const ModelError& e) {
        return e.what();
    }
    return {};
}

}  // namespace glmd
