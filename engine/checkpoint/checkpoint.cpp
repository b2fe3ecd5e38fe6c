// What is peculiar: names of files come from other files here (an index, `latest`); they may only name something in the
// same folder. GLM's original files and GLM-130B's look alike and are told apart by the learned position table.
#include "engine/checkpoint/checkpoint.h"

#include <cstdio>
#include <filesystem>
#include <set>

#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/torch_zip.h"

namespace glmd {
namespace {

namespace fs = std::filesystem;

/// A name that a file gave us: a plain one, not a way out of the folder.
void check_plain(const std::string& where, const std::string& name) {
    if (name.empty() || name.size() > 255 || name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos)
        throw ModelError(where + ": it names a file that isn't in the same folder.");
}

std::string states_name(int rank) {
    char name[48];
    std::snprintf(name, sizeof name, "mp_rank_%02d_model_states.pt", rank);
    return name;
}

constexpr int most_ranks = 64;

}  // namespace

Checkpoint::Checkpoint(const std::string& path, const std::string& config) {
    if (!config.empty()) config_ = Config::read(config);
    std::error_code error;
    if (fs::is_regular_file(path, error)) {
        folder_ = fs::path(path).has_parent_path() ? fs::path(path).parent_path().string() : ".";
        const auto name = fs::path(path).filename().string();
        if (name.starts_with("mp_rank_")) {
            open_states(folder_);
        } else {
            ranks_.resize(1);
            add(path, ranks_[0]);
            if (config.empty() && fs::exists(folder_ + "/config.json", error)) config_ = Config::read(folder_ + "/config.json");
        }
    } else if (fs::is_directory(path, error)) {
        folder_ = path;
        if (fs::exists(folder_ + "/latest", error)) {
            auto name = read_text(folder_ + "/latest", 4096);
            while (!name.empty() && (name.back() == '\n' || name.back() == '\r' || name.back() == ' ')) name.pop_back();
            check_plain(folder_ + "/latest", name);
            open_states(folder_ + "/" + name);
        } else if (fs::exists(folder_ + "/" + states_name(0), error)) {
            open_states(folder_);
        } else {
            if (config.empty() && fs::exists(folder_ + "/config.json", error)) config_ = Config::read(folder_ + "/config.json");
            open_hugging_face();
        }
        if (kind_ != CheckpointKind::hugging_face && config.empty())
            for (const char* name : {"/model_config.json", "/config.json"})
                if (fs::exists(folder_ + name, error)) {
                    config_ = Config::read(folder_ + name);
                    break;
                }
    } else {
        throw ModelError(path + ": there is no such checkpoint.");
    }
    if (ranks_.empty() || ranks_[0].tensors.empty()) throw ModelError(path + ": there are no tensors in this checkpoint.");
}

void Checkpoint::open_hugging_face() {
    std::error_code error;
    ranks_.resize(1);
    for (const std::string stem : {"model.safetensors", "pytorch_model.bin"}) {
        const auto index_path = folder_ + "/" + stem + ".index.json";
        if (fs::exists(index_path, error)) {
            const auto map = Config::read(index_path).object("weight_map");
            std::set<std::string> shards;
            std::map<std::string, std::string> wanted;
            for (const auto& name : map.keys()) {
                const auto shard = map.string(name);
                check_plain(index_path, shard);
                shards.insert(shard);
                wanted[name] = shard;
            }
            if (shards.empty()) throw ModelError(index_path + ": the index has no weight_map.");
            for (const auto& shard : shards) add(folder_ + "/" + shard, ranks_[0]);
            for (const auto& [name, shard] : wanted)
                if (!find(name)) throw ModelError(folder_ + "/" + shard + ": the tensor \"" + name.substr(0, 200) + "\" isn't in it.");
            return;
        }
        if (fs::exists(folder_ + "/" + stem, error)) {
            add(folder_ + "/" + stem, ranks_[0]);
            return;
        }
    }
    throw ModelError(folder_ + ": there is no checkpoint in this folder: neither model.safetensors, pytorch_model.bin, their "
                               "index, mp_rank_00_model_states.pt nor latest.");
}

void Checkpoint::open_states(const std::string& folder) {
    std::error_code error;
    bool module = true;
    for (int rank = 0; rank < most_ranks; ++rank) {
        const auto path = folder + "/" + states_name(rank);
        if (!fs::exists(path, error)) break;
        module = add(path, ranks_.emplace_back()) && module;
    }
    if (ranks_.empty()) throw ModelError(folder + ": " + states_name(0) + " is missing.");
    if (!module) throw ModelError(folder + ": " + states_name(0) + " has no \"module\".");
    kind_ = find("transformer.position_embeddings.weight") ? CheckpointKind::glm_original : CheckpointKind::sat;
    if (kind_ == CheckpointKind::glm_original && ranks() > 1)
        throw ModelError(folder + ": this GLM checkpoint is split for several GPUs; merge it first (change_mp.py of its repository).");
}

bool Checkpoint::add(const std::string& path, Rank& rank) {
    files_.push_back(std::make_unique<MappedFile>(path));
    const MappedFile& file = *files_.back();
    TorchFile read;
    if (path.ends_with(".safetensors")) read.tensors = read_safetensors(file);
    else read = read_torch_zip(file);
    for (auto& t : read.tensors) {
        if (!rank.index.emplace(t.name, rank.tensors.size()).second)
            throw ModelError(path + ": the tensor \"" + t.name.substr(0, 200) + "\" is in another file of the checkpoint as well.");
        rank.tensors.push_back(std::move(t));
    }
    return read.module;
}

const SourceTensor* Checkpoint::find(std::string_view name, int rank) const {
    const Rank& r = ranks_[static_cast<std::size_t>(rank)];
    const auto found = r.index.find(name);
    return found == r.index.end() ? nullptr : &r.tensors[found->second];
}

const SourceTensor& Checkpoint::tensor(std::string_view name, int rank) const {
    if (const auto* t = find(name, rank)) return *t;
    throw ModelError(folder_ + ": the checkpoint has no tensor \"" + std::string(name) + "\".");
}

}  // namespace glmd
