#pragma once
// Reads a safetensors file: a JSON directory in front, raw tensors behind.
#include <vector>

#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/source_tensor.h"

namespace glmd {

/// All tensors of the file, in the order of its directory; their bytes belong to `file`. ModelError when it lies about a size.
std::vector<SourceTensor> read_safetensors(const MappedFile& file);

}  // namespace glmd
