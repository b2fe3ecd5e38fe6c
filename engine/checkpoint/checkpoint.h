#pragma once
// One view of the checkpoints that people have: a folder (or file) of tensors by name, and its configuration.
//
//   hugging_face   config.json; model.safetensors or pytorch_model.bin, or their shards by an index
//   glm_original   mp_rank_00_model_states.pt of the GLM repository ({"module": …}); no configuration
//   sat            GLM-130B: `latest` names the sub-folder with mp_rank_XX_model_states.pt, one for each model-parallel rank
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/config.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/source_tensor.h"

namespace glmd {

enum class CheckpointKind : std::uint8_t { hugging_face, glm_original, sat };

class Checkpoint {
public:
    /// `config` overrides the folder's own configuration file. ModelError.
    explicit Checkpoint(const std::string& path, const std::string& config = {});

    CheckpointKind kind() const { return kind_; }
    const std::string& folder() const { return folder_; }
    const Config& config() const { return config_; }
    /// Model-parallel parts, 1 for all but SAT.
    int ranks() const { return static_cast<int>(ranks_.size()); }
    const std::vector<SourceTensor>& tensors(int rank = 0) const { return ranks_[static_cast<std::size_t>(rank)].tensors; }
    const SourceTensor* find(std::string_view name, int rank = 0) const;
    const SourceTensor& tensor(std::string_view name, int rank = 0) const;  // ModelError when absent
    /// The files that hold the weights, each once.
    const std::vector<std::unique_ptr<MappedFile>>& files() const { return files_; }

private:
    struct Rank {
        std::vector<SourceTensor> tensors;
        std::map<std::string, std::size_t, std::less<>> index;
    };
    void open_hugging_face();
    void open_states(const std::string& folder);
    /// Adds a file's tensors to a rank; true when they were in {"module": …}.
    bool add(const std::string& path, Rank& rank);

    CheckpointKind kind_ = CheckpointKind::hugging_face;
    std::string folder_;
    Config config_;
    std::vector<std::unique_ptr<MappedFile>> files_;
    std::vector<Rank> ranks_;
};

}  // namespace glmd
