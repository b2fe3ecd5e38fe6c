#pragma once
// Reads what torch.save() writes: a zip of raw storages and a pickle that says how they make tensors. A pickle is a program;
// the interpreter here knows the handful of instructions that tensors in dicts need and can build nothing else.
#include <vector>

#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/source_tensor.h"

namespace glmd {

struct TorchFile {
    std::vector<SourceTensor> tensors;  // bytes belong to the mapped file
    bool module = false;                // they were in {"module": …}
};

/// ModelError names the instruction or the class that isn't allowed, or what is damaged.
TorchFile read_torch_zip(const MappedFile& file);

}  // namespace glmd
