#pragma once
#include <stdexcept>

namespace glmd {

/// A model file that is torn, hostile, unsupported or too big; the text is one sentence a user can act on.
struct ModelError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace glmd
