// Loading is a straight line: backend, packed files, metadata, memory plan, allocation. Nothing big is allocated before the plan
// is known to fit.
#include "engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "engine/step_buffers.h"

namespace glmd {
namespace {

std::size_t available_memory() {
    std::ifstream f("/proc/meminfo");
    for (std::string key, unit; f >> key;) {
        std::size_t kib = 0;
        if (key == "MemAvailable:" && f >> kib) return kib * 1024;
        std::getline(f, unit);
    }
    return 0;
}

std::string gigabytes(std::size_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f GB", bytes / 1e9);
    return text;
}

}  // namespace

LoadedModel load_model(const std::string& gguf_path, const EngineOptions& options) {
    const auto begin = std::chrono::steady_clock::now();
    LoadedModel l;
    l.backend = make_cpu_backend(options.cpu);

    std::error_code error;
    std::filesystem::create_directories(options.cache_directory, error);
    const PackedPaths paths = packed_paths(gguf_path, options.cache_directory, *l.backend);
    auto open = [&] {
        l.metadata = std::make_unique<Gguf>(paths.metadata);
        l.weights = std::make_unique<PackedFile>(paths.weights);
    };
    bool opened = false;
    if (std::filesystem::exists(paths.weights, error)) {
        try {
            open();
            opened = true;
        } catch (const ModelError&) {  // torn: the cache may be made again at any time
        }
    }
    if (!opened) {
        pack_model_in_child(gguf_path, paths, options.cpu.isa, options.on_pack);
        open();
    }

    const ModelFamily* family = find_family(l.metadata->string("general.architecture"));
    if (!family) throw ModelError("the packed model is of an unknown architecture");
    const ModelConfig config = family->config(*l.metadata);
    l.tokenizer = load_tokenizer(*l.metadata);
    l.chat_template = load_chat_template(*l.metadata);
    l.end_ids = l.chat_template->end_ids(*l.tokenizer);
    if (l.metadata->has("glmd.end_ids"))
        for (const double id : l.metadata->numbers("glmd.end_ids")) l.end_ids.push_back(static_cast<TokenId>(id));

    const int context = std::min(options.context > 0 ? options.context : std::min(config.trained_context, 8192), config.trained_context);
    l.info.parameters = l.metadata->integer("glmd.source.parameters", 0);
    l.precision = options.precision.value_or(l.info.parameters < 2'000'000'000 ? Precision::exact : Precision::fast);
    const KvShape shape{config.layers, config.kv_heads, config.head_dim, l.precision == Precision::exact ? KvType::f32 : KvType::f16};
    const int context_blocks = (context + kv_block_tokens - 1) / kv_block_tokens;
    const std::size_t wanted = options.kv_bytes ? options.kv_bytes
                                                : shape.block_bytes() * context_blocks * std::max(1, options.max_sequences / 2);
    const std::size_t budget = options.memory_budget ? options.memory_budget : available_memory();
    const int rows = options.prefill_rows + options.batch();
    const std::size_t workspace = std::size_t(rows) * 4 * (std::size_t(6) * config.hidden + std::size_t(5) * config.inner) +
                                  std::size_t(options.batch() + 1) * 4 * config.vocabulary * 2;
    const std::size_t least = l.weights->bytes() + workspace + shape.block_bytes() * context_blocks;
    if (budget > 0 && least > budget)
        throw ModelError("insufficient memory: weights " + gigabytes(l.weights->bytes()) + " + KV " +
                         gigabytes(shape.block_bytes() * context_blocks) + " for " + std::to_string(context) + " tokens + workspace " +
                         gigabytes(workspace) + " = " + gigabytes(least) + ", and only " + gigabytes(budget) +
                         " are available; use a smaller context or model");
    std::size_t kv = wanted;
    if (budget > 0) kv = std::min(kv, budget - l.weights->bytes() - workspace);
    const int blocks = std::max(context_blocks, static_cast<int>(kv / shape.block_bytes()));

    l.pool = l.backend->make_kv_pool(shape, blocks);
    l.model = family->load({*l.backend, *l.metadata, *l.weights, *l.tokenizer, context, rows, options.batch() + 1});
    ModelInfo& i = l.info;
    i.name = std::filesystem::path(gguf_path).stem();
    i.path = gguf_path;
    i.architecture = config.architecture;
    i.quantization = l.metadata->string("glmd.source.type", "");
    i.context = context;
    i.trained_context = config.trained_context;
    i.vocabulary = config.vocabulary;
    i.layers = config.layers;
    i.weight_bytes = l.weights->bytes();
    i.kv_bytes = shape.block_bytes() * blocks;
    i.workspace_bytes = l.model->workspace_bytes();
    i.blanks = l.model->config().blanks;
    i.backend = l.backend->description() + (l.precision == Precision::exact ? ", exact" : ", fast");
    i.load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return l;
}

Evaluation::Evaluation(LoadedModel& model, const EngineOptions& options, std::vector<BlankRows> blanks)
    : model_(model), options_(options),
      buffers_(std::make_unique<StepBuffers>(*model.backend, options.prefill_rows + options.max_sequences, options.max_sequences,
                                             (model.info.context + kv_block_tokens - 1) / kv_block_tokens)),
      blank_rows_(std::move(blanks)) {
    for (int i = 0; i < (model.info.context + kv_block_tokens - 1) / kv_block_tokens; ++i) blocks_.push_back(i);
}

Evaluation::~Evaluation() = default;

std::vector<float> Evaluation::feed(std::span<const TokenId> ids) {
    Model& model = *model_.model;
    const std::size_t vocabulary = model.config().vocabulary;
    if (tokens_ == 0) layout_ = model.layout(ids, blank_rows_);
    const int prompt = static_cast<int>(layout_.positions.size());
    // A prompt that sees itself in both directions is one step; others are cut, which changes nothing.
    const std::size_t most = layout_.bidirectional > 0 && tokens_ == 0 ? ids.size() : std::size_t(options_.max_sequences);
    std::vector<float> all(ids.size() * vocabulary);
    for (std::size_t done = 0; done < ids.size();) {
        const int rows = static_cast<int>(std::min(ids.size() - done, most));
        if (rows > options_.max_sequences) throw ModelError("Evaluation: the prompt is longer than max_sequences rows");
        buffers_->clear();
        const int sequence = buffers_->add_sequence(blocks_, layout_.bidirectional);
        for (int i = 0; i < rows; ++i, ++tokens_) {
            const int after = tokens_ - (prompt - 1);  // > 0: of the answer
            const int last = std::min(tokens_, prompt - 1);
            buffers_->logit_rows.push_back(i);
            buffers_->add_row(ids[done + i], layout_.positions[last] + (after > 0 ? after * layout_.position_step : 0),
                              layout_.block_positions[last] + (after > 0 ? after * layout_.block_step : 0), tokens_, sequence);
        }
        const Step s = buffers_->upload(*model_.pool, model_.precision);
        model.embed(s);
        for (int l = 0; l < model.config().layers; ++l) {
            model.keys(s, l);
            model.rest(s, l);
        }
        const Activations logits = model.logits(s);
        model_.backend->download(all.data() + done * vocabulary, logits.data, rows * vocabulary * sizeof(float));
        done += rows;
    }
    return all;
}

}  // namespace glmd
