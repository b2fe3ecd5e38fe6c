// What is peculiar: memory. Source files are mapped; rows are converted in pieces of a few megabytes, by several threads, and
// the pages behind them are given back at once. Everything that can be refused is refused before the first byte is written.
#include "engine/checkpoint/convert.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>

#include "engine/available_memory.h"
#include "engine/checkpoint/families/families.h"
#include "engine/checkpoint/gguf_writer.h"
#include "engine/checkpoint/hashes.h"
#include "engine/checkpoint/pack.h"
#include "engine/checkpoint/quantize.h"
#include "engine/checkpoint/tokenizer_files.h"
#include "engine/self_test.h"
#include "kernels/half.h"

namespace glmd {
namespace {

namespace fs = std::filesystem;

constexpr const CheckpointFamily* families[] = {&chatglm_checkpoints, &glm4_checkpoints, &glm130b_checkpoints, &glm_checkpoints,
                                                &chatglm1_checkpoints};
constexpr std::size_t piece_bytes = std::size_t{8} << 20;  // of output, converted at a time
constexpr std::int64_t block = 32;

// ---- what goes into the file

DType as_source(const TargetTensor& t) {
    const Part& p = t.rows.front().parts.front();
    if (p.bits == 4) return DType::q4_0;
    if (p.bits == 8) return DType::q8_0;
    switch (p.weight->type) {
        case SourceType::f16: return DType::f16;
        case SourceType::bf16: return DType::bf16;
        default: return DType::f32;
    }
}

bool upstream_quantized(const TargetTensor& t) {
    for (const auto& span : t.rows)
        for (const auto& part : span.parts)
            if (part.bits == 0) return false;
    return true;
}

DType output_type(const TargetTensor& t, const Plan& plan, OutputType wanted) {
    if (t.kind != TargetTensor::Kind::matrix) return DType::f32;
    switch (wanted) {
        case OutputType::as_source: return as_source(t);
        case OutputType::f32: return DType::f32;
        case OutputType::f16: return DType::f16;
        case OutputType::int8:
        case OutputType::int4: break;
    }
    if (plan.quantized && !upstream_quantized(t)) return as_source(t);  // upstream kept it in half precision
    return wanted == OutputType::int8 ? DType::q8_0 : DType::q4_0;
}

bool is_quantized(DType t) { return t == DType::q4_0 || t == DType::q8_0; }
std::int64_t padded(std::int64_t cols) { return (cols + block - 1) / block * block; }

struct Output {
    const TargetTensor* tensor;
    DType type;
    std::int64_t rows, cols, stored_cols;
};

// ---- rows

/// Upstream's integers keep their row's scale in every block; false when the blocks don't line up with the ranks' columns.
bool exact_row(const RowSpan& span, std::int64_t row, DType type, std::int64_t stored_cols, std::vector<std::int8_t>& q, std::byte* out) {
    q.assign(static_cast<std::size_t>(stored_cols), 0);
    std::vector<std::pair<std::int64_t, std::uint16_t>> scales;  // first column, scale
    std::int64_t at = 0;
    for (const Part& p : span.parts) {
        if (p.bits == 0 || (type == DType::q4_0 && p.bits == 8)) return false;
        std::uint16_t scale;
        std::memcpy(&scale, p.scale->data.data() + row * 2, 2);
        if (scales.empty() || scales.back().second != scale) {
            if (at % block != 0) return false;
            scales.emplace_back(at, scale);
        }
        const auto* source = reinterpret_cast<const std::int8_t*>(p.weight->data.data());
        if (p.bits == 8) {
            std::memcpy(q.data() + at, source + row * p.cols, static_cast<std::size_t>(p.cols));
        } else {
            source += row * (p.cols / 2);
            for (std::int64_t i = 0; i < p.cols / 2; ++i) {
                q[static_cast<std::size_t>(at + 2 * i)] = static_cast<std::int8_t>(source[i] >> 4);
                q[static_cast<std::size_t>(at + 2 * i + 1)] = static_cast<std::int8_t>(static_cast<std::int8_t>(static_cast<std::uint8_t>(source[i]) << 4) >> 4);
            }
        }
        at += p.cols;
    }
    std::size_t s = 0;
    for (std::int64_t c = 0; c < stored_cols; c += block) {
        while (s + 1 < scales.size() && scales[s + 1].first <= c) ++s;
        if (type == DType::q4_0) write_q4_0_block(q.data() + c, scales[s].second, out), out += 18;
        else write_q8_0_block(q.data() + c, scales[s].second, out), out += 34;
    }
    return true;
}

class RowEncoder {
public:
    explicit RowEncoder(const Output& o) : o_(o), floats_(static_cast<std::size_t>(o.stored_cols), 0.0f) {}

    void encode(const RowSpan& span, std::int64_t row, std::byte* out) {
        if (is_quantized(o_.type) && exact_row(span, row, o_.type, o_.stored_cols, integers_, out)) return;
        // A half that stays a half isn't touched, not even a NaN.
        if (span.parts.size() == 1 && span.parts[0].bits == 0 &&
            ((o_.type == DType::f16 && span.parts[0].weight->type == SourceType::f16) ||
             (o_.type == DType::bf16 && span.parts[0].weight->type == SourceType::bf16))) {
            std::memcpy(out, span.parts[0].weight->data.data() + row * o_.cols * 2, static_cast<std::size_t>(o_.cols) * 2);
            return;
        }
        std::int64_t at = 0;
        for (const Part& p : span.parts) read_floats(p, row, floats_.data() + at), at += p.cols;
        bool ok = true;
        switch (o_.type) {
            case DType::f32: std::memcpy(out, floats_.data(), static_cast<std::size_t>(o_.cols) * 4); break;
            case DType::f16:
                for (std::int64_t i = 0; i < o_.cols; ++i) {
                    const auto h = float_to_half(floats_[static_cast<std::size_t>(i)]);
                    ok = ok && (h & 0x7fff) < 0x7c00;
                    std::memcpy(out + 2 * i, &h, 2);
                }
                break;
            case DType::bf16:  // of one rank or several that are bf16 already: the low half is zero
                for (std::int64_t i = 0; i < o_.cols; ++i) {
                    const auto b = static_cast<std::uint16_t>(float_to_bits(floats_[static_cast<std::size_t>(i)]) >> 16);
                    std::memcpy(out + 2 * i, &b, 2);
                }
                break;
            case DType::q8_0: ok = quantize_q8_0(floats_, out); break;
            default: ok = quantize_q4_0(floats_, out);
        }
        if (!ok)
            throw ModelError("the tensor " + o_.tensor->name + " holds a value that isn't finite or is too large for this type; convert to f32.");
    }

private:
    const Output& o_;
    std::vector<float> floats_;
    std::vector<std::int8_t> integers_;
};

/// Runs work(begin, end) over 0 … count - 1 in `threads` threads; the first exception is thrown on.
template <class Work>
void in_parallel(int threads, std::int64_t count, const Work& work) {
    const auto n = std::min<std::int64_t>(threads, count);
    if (n <= 1) return work(0, count);
    std::exception_ptr failure;
    std::mutex mutex;
    std::vector<std::thread> pool;
    for (std::int64_t i = 0; i < n; ++i)
        pool.emplace_back([&, i] {
            try {
                work(count * i / n, count * (i + 1) / n);
            } catch (...) {
                const std::lock_guard lock(mutex);
                failure = std::current_exception();
            }
        });
    for (auto& t : pool) t.join();
    if (failure) std::rethrow_exception(failure);
}

std::uint64_t row_source_bytes(const RowSpan& span) {
    std::uint64_t bytes = 0;
    for (const Part& p : span.parts) bytes += p.weight->data.size() / static_cast<std::size_t>(p.weight->shape[0]);
    return bytes;
}

void release_rows(const RowSpan& span, std::int64_t begin, std::int64_t end) {
    for (const Part& p : span.parts) {
        const auto row = p.weight->data.size() / static_cast<std::size_t>(p.weight->shape[0]);
        release_pages(p.weight->data.subspan(static_cast<std::size_t>(begin) * row, static_cast<std::size_t>(end - begin) * row));
    }
}

/// Bytes of progress, reported from one thread.
class Meter {
public:
    Meter(const ConvertProgress& report, std::uint64_t total) : report_(report), total_(total) {}
    void add(std::uint64_t bytes) { at(done_ + bytes); }
    void at(std::uint64_t done) {
        done_ = std::max(done_, std::min(done, total_));
        if (report_) report_(done_, total_);
    }
    std::uint64_t done() const { return done_; }

private:
    const ConvertProgress& report_;
    std::uint64_t done_ = 0, total_;
};

void write_tensor(GgufWriter& writer, const Output& o, int threads, Meter& meter) {
    if (o.tensor->kind == TargetTensor::Kind::computed) {
        writer.append(std::as_bytes(std::span(o.tensor->values)));
        return;
    }
    const auto bytes = row_bytes(o.type, o.stored_cols);
    std::vector<std::byte> piece;
    for (std::size_t s = 0; s < o.tensor->rows.size();) {
        // A piece: whole spans while they fit, or a part of one large span.
        struct Slice {
            const RowSpan* span;
            std::int64_t begin, count, at;
        };
        const auto most = std::max<std::int64_t>(1, static_cast<std::int64_t>(piece_bytes / bytes));
        std::int64_t rows = 0;
        std::vector<Slice> slices;
        const auto flush = [&] {
            piece.resize(static_cast<std::size_t>(rows) * bytes);
            in_parallel(threads, rows, [&](std::int64_t begin, std::int64_t end) {
                RowEncoder encoder(o);
                for (const Slice& x : slices)
                    for (std::int64_t r = std::max(begin, x.at); r < std::min(end, x.at + x.count); ++r)
                        encoder.encode(*x.span, x.begin + r - x.at, piece.data() + static_cast<std::size_t>(r) * bytes);
            });
            writer.append(piece);
            std::uint64_t read = 0;
            for (const Slice& x : slices) {
                release_rows(*x.span, x.begin, x.begin + x.count);
                read += row_source_bytes(*x.span) * static_cast<std::uint64_t>(x.count);
            }
            meter.add(read);
            rows = 0;
            slices.clear();
        };
        for (; s < o.tensor->rows.size(); ++s) {
            const RowSpan& span = o.tensor->rows[s];
            for (std::int64_t done = 0; done < span.count;) {
                const auto count = std::min(span.count - done, most - rows);
                slices.push_back({&span, span.first + done, count, rows});
                rows += count;
                done += count;
                if (rows == most) flush();
            }
        }
        if (rows > 0) flush();
    }
}

// ---- metadata

void add(GgufWriter& writer, const std::string& key, const MetadataValue& value) {
    if (const auto* v = std::get_if<bool>(&value)) writer.add_bool(key, *v);
    else if (const auto* v = std::get_if<std::uint32_t>(&value)) writer.add_u32(key, *v);
    else if (const auto* v = std::get_if<std::uint64_t>(&value)) writer.add_u64(key, *v);
    else if (const auto* v = std::get_if<float>(&value)) writer.add_f32(key, *v);
    else writer.add_string(key, std::get<std::string>(value));
}

void add_tokenizer(GgufWriter& writer, const TokenizerFiles& t, Plan& plan) {
    writer.add_string("tokenizer.ggml.model", t.model);
    writer.add_string("tokenizer.ggml.pre", t.pre);
    writer.add_strings("tokenizer.ggml.tokens", t.tokens);
    writer.add_i32s("tokenizer.ggml.token_type", t.types);
    if (t.model == "gpt2") {
        writer.add_strings("tokenizer.ggml.merges", t.merges);
    } else {
        writer.add_f32s("tokenizer.ggml.scores", t.scores);
        writer.add_bool("tokenizer.ggml.add_space_prefix", t.add_space_prefix);
        writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", t.remove_extra_whitespaces);
        writer.add_bytes("glmd.tokenizer.sentencepiece", std::as_bytes(std::span(t.sentencepiece)));
        if (t.id_offset != 0) writer.add_u64("glmd.tokenizer.id_offset", static_cast<std::uint64_t>(t.id_offset));
    }
    writer.add_bool("tokenizer.ggml.add_bos_token", false);
    // Names that the configuration didn't give ids to.
    const auto known = [&](const std::string& name) {
        return std::any_of(plan.special_ids.begin(), plan.special_ids.end(), [&](const auto& x) { return x.first == name; });
    };
    for (const auto& [name, token] :
         {std::pair{"mask", "[MASK]"}, {"gmask", "[gMASK]"}, {"smask", "[sMASK]"}, {"sop", "<sop>"}, {"sop", "sop"}, {"sop", "<|startofpiece|>"}, {"eop", "<eop>"},
          {"eop", "eop"}, {"eop", "<|endofpiece|>"}, {"eos", "<|endoftext|>"}, {"eos", "</s>"}, {"cls", "[CLS]"}, {"sep", "[SEP]"}, {"unk", "<unk>"}, {"pad", "<pad>"}})
        if (const auto found = t.special.find(token); found != t.special.end() && !known(name)) plan.special_ids.emplace_back(name, found->second);
    if (plan.end_ids.empty() && plan.architecture == "glm")
        for (const char* token : {"<|endofpiece|>", "<|endoftext|>"})
            if (const auto found = t.special.find(token); found != t.special.end()) plan.end_ids.push_back(found->second);
    if (plan.chat_template == "chatglm3")
        for (const char* token : {"<|user|>", "<|observation|>"})
            if (const auto found = t.special.find(token); found != t.special.end()) plan.end_ids.push_back(found->second);
    if (const auto user = t.special.find("<|user|>"); user != t.special.end()) writer.add_u32("tokenizer.ggml.eot_token_id", static_cast<std::uint32_t>(user->second));
}

void add_ids(GgufWriter& writer, const Plan& plan, const Config& config) {
    std::vector<std::int32_t> ends;
    const auto in_range = [&](std::int64_t id) { return id >= 0 && id < plan.vocabulary; };
    for (const auto id : plan.end_ids)
        if (in_range(id) && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(static_cast<std::int32_t>(id));
    if (!ends.empty()) {
        writer.add_i32s("glmd.end_ids", ends);
        writer.add_u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(ends.front()));
    }
    for (const auto& [name, id] : plan.special_ids) {
        if (!in_range(id)) throw ModelError(config.where() + ": the id of " + name + " (" + std::to_string(id) + ") is outside the vocabulary.");
        writer.add_u32("glmd.token." + name, static_cast<std::uint32_t>(id));
    }
    if (const auto pad = config.integers("pad_token_id"); pad.size() == 1 && in_range(pad[0]))
        writer.add_u32("tokenizer.ggml.padding_token_id", static_cast<std::uint32_t>(pad[0]));
}

/// The model's own name: the last part of what upstream calls it, never a path of this machine.
std::string model_name(const Config& config, const Plan& plan) {
    auto name = config.string("_name_or_path", config.string("name_or_path"));
    while (name.ends_with('/')) name.pop_back();
    if (const auto slash = name.rfind('/'); slash != name.npos) name.erase(0, slash + 1);
    return name.empty() || name == "." ? plan.architecture : name;
}

std::uint32_t file_type(const std::vector<Output>& outputs) {
    std::uint32_t type = 0;
    std::int64_t most = 0;
    for (const auto& o : outputs)
        if (o.tensor->kind == TargetTensor::Kind::matrix && o.rows * o.cols > most) {
            most = o.rows * o.cols;
            type = o.type == DType::f16 ? 1 : o.type == DType::q4_0 ? 2 : o.type == DType::q8_0 ? 7 : o.type == DType::bf16 ? 32 : 0;
        }
    return type;
}

void check_space(const std::string& output, std::uint64_t bytes) {
    std::error_code error;
    const auto folder = fs::absolute(output).parent_path();
    const auto space = fs::space(folder, error);
    if (!error && space.available < bytes)
        throw ModelError(output + ": the file will have " + std::to_string(bytes) + " bytes, but only " + std::to_string(space.available) +
                         " are free there.");
}

/// The answer of the file that `writer` has completed; the packed copy is gone afterwards. Nothing, and why, if it can't be had.
std::optional<Fingerprint> try_out(const GgufWriter& writer, const std::string& output, std::uint64_t bytes, Meter& meter, std::string& why) {
    struct Folder {
        fs::path path;
        ~Folder() {
            std::error_code ignored;
            fs::remove_all(path, ignored);
        }
    } folder{writer.temporary_path() + ".selftest"};
    try {
        find_packer();
    } catch (const ModelError& e) {
        why = e.what();
        return {};
    }
    constexpr std::uint64_t slack = std::uint64_t{512} << 20;
    std::error_code error;
    const auto space = fs::space(fs::absolute(output).parent_path(), error);
    const auto memory = available_memory();
    if (!error && space.available < bytes + slack) why = "the disk has no room for the packed copy that the self-test needs";
    else if (memory > 0 && memory < bytes + slack) why = "the model doesn't fit into this machine's memory";
    else if (!fs::create_directory(folder.path, error)) why = "no folder can be made beside the output";
    if (!why.empty()) return {};
    const auto backend = make_cpu_backend({1, {}});
    const auto paths = packed_paths(writer.temporary_path(), folder.path.string(), *backend);
    const auto before = meter.done();
    pack_model_in_child(writer.temporary_path(), paths, {}, {}, [&](std::size_t done, std::size_t) { meter.at(before + done); });
    auto fingerprint = recorded_fingerprint(Gguf(paths.metadata));
    if (!fingerprint) why = "the model doesn't fit into this machine's memory";
    return fingerprint;
}

}  // namespace

ConvertResult convert_checkpoint(const ConvertOptions& options, const ConvertProgress& progress) {
    const Checkpoint checkpoint(options.input, options.config);
    const CheckpointFamily* family = nullptr;
    for (const auto* f : families)
        if (!family && f->matches(checkpoint)) family = f;
    if (!family) {
        const auto what = checkpoint.config().string("model_type");
        throw ModelError(options.input + ": " + (what.empty() ? "this checkpoint" : "a checkpoint of type \"" + what.substr(0, 40) + "\"") +
                         " is none of ChatGLM-6B, ChatGLM2, ChatGLM3, GLM-4, GLM-4-0414, GLM-Edge, GLM and GLM-130B.");
    }
    Plan plan;
    Planner planner(checkpoint, plan);
    family->plan(planner);
    std::unique_ptr<Checkpoint> prefix;
    if (!options.prefix.empty()) {
        if (!family->add_prefix) throw ModelError(options.prefix + ": " + plan.architecture + " takes no P-tuning prefix.");
        prefix = std::make_unique<Checkpoint>(options.prefix);
        for (const auto& t : plan.tensors)
            if (t.name == "prefix.key") throw ModelError(options.prefix + ": the checkpoint has a prefix already.");
        family->add_prefix(planner, *prefix);
    }
    planner.check_all_used();
    if (plan.end_ids.empty()) plan.end_ids = checkpoint.config().integers("eos_token_id");

    if (!options.chat_template.empty()) plan.chat_template = options.chat_template;
    const auto tokenizer = read_tokenizer(options.tokenizer.empty() ? checkpoint.folder() : options.tokenizer, plan.tokenizer, plan.chat_template,
                                          plan.vocabulary);
    if (!options.tokenizer.empty() && !tokenizer) throw ModelError(options.tokenizer + ": there is no tokenizer for " + plan.architecture + " in this folder.");
    if (plan.chat_template.empty())  // GLM-4 or GLM-Edge: only the template's text tells
        plan.chat_template = tokenizer && !tokenizer->chat_template.empty() && tokenizer->chat_template.find("[gMASK]") == std::string::npos ? "glm-edge" : "glm4";

    std::vector<Output> outputs;
    std::uint64_t read = 0, written = 0;
    for (const auto& t : plan.tensors) {
        Output o{&t, output_type(t, plan, options.type), 1, t.shape.back(), 0};
        if (t.kind == TargetTensor::Kind::matrix || t.kind == TargetTensor::Kind::table) o.rows = t.shape[0];
        if (t.kind == TargetTensor::Kind::vector) o.rows = t.shape[0], o.cols = 1;
        o.stored_cols = is_quantized(o.type) ? padded(o.cols) : o.cols;
        for (const auto& span : t.rows) read += row_source_bytes(span) * static_cast<std::uint64_t>(span.count);
        written += t.kind == TargetTensor::Kind::computed ? t.values.size() * 4 : row_bytes(o.type, o.stored_cols) * static_cast<std::uint64_t>(o.rows);
        outputs.push_back(o);
    }
    check_space(options.output, written);
    const int threads = options.threads > 0 ? options.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::string> paths;
    std::uint64_t file_bytes = 0;
    if (options.record_sources)
        for (const auto* c : {&checkpoint, static_cast<const Checkpoint*>(prefix.get())}) {
            if (!c) continue;
            for (const auto& f : c->files()) {
                paths.push_back(f->path());
                file_bytes += f->data().size();
            }
        }
    Meter meter(progress, read + file_bytes + (options.self_test ? written : 0));
    ConvertResult result;

    GgufWriter writer(options.output);
    writer.add_string("general.architecture", plan.architecture);
    writer.add_string("general.name", model_name(checkpoint.config(), plan));
    writer.add_u32("general.file_type", file_type(outputs));
    writer.add_u32("general.quantization_version", 2);
    for (const auto& [key, value] : plan.metadata) add(writer, key, value);
    writer.add_u64("glmd.vocabulary", static_cast<std::uint64_t>(plan.vocabulary));
    writer.add_string("glmd.chat_template", plan.chat_template);
    if (tokenizer) {
        add_tokenizer(writer, *tokenizer, plan);
        std::string text = tokenizer->chat_template;
        if (text.empty()) text = plan.chat_template == "glm4_0414" ? "glm4-0414" : plan.chat_template;  // the names engine/chat.cpp knows
        if (plan.chat_template != "glm" && plan.chat_template != "glm130b") writer.add_string("tokenizer.chat_template", text);
    }
    add_ids(writer, plan, checkpoint.config());
    if (options.record_sources) {
        std::vector<std::string> names;
        for (const auto& p : paths) names.push_back(fs::path(p).filename().string());
        const auto hashes = sha256_files(paths, threads, [&](std::uint64_t done) { meter.at(done); });
        meter.at(file_bytes);
        writer.add_strings("glmd.source.files", names);
        writer.add_strings("glmd.source.sha256", hashes);
        for (std::size_t i = 0; i < names.size(); ++i) result.sources.emplace_back(names[i], hashes[i]);
    }
    if (options.self_test) add_fingerprint(writer);
    writer.record_hashes();
    for (const auto& o : outputs)
        if (o.stored_cols != o.cols) writer.add_u64("glmd.cols." + o.tensor->name, static_cast<std::uint64_t>(o.cols));
    for (const auto& o : outputs) {
        auto shape = o.tensor->shape;
        if (o.tensor->kind == TargetTensor::Kind::matrix) shape.back() = o.stored_cols;
        writer.add_tensor(o.tensor->name, o.type, shape);
    }
    writer.write_header();
    for (const auto& o : outputs) write_tensor(writer, o, threads, meter);
    if (options.self_test) {
        writer.complete();
        if (const auto fingerprint = try_out(writer, options.output, written, meter, result.no_self_test)) patch_fingerprint(writer, *fingerprint);
        meter.at(read + file_bytes + written);
    } else {
        result.no_self_test = "it wasn't asked for";
    }
    writer.finish();
    result.architecture = plan.architecture;
    for (const auto& o : outputs)
        result.parameters += o.tensor->kind == TargetTensor::Kind::computed ? static_cast<std::int64_t>(o.tensor->values.size()) : o.rows * o.cols;
    result.tensors = static_cast<std::int64_t>(outputs.size());
    std::error_code error;
    result.bytes = fs::file_size(options.output, error);
    result.tokenizer = tokenizer.has_value();
    return result;
}

}  // namespace glmd
