// SentencePiece vocabularies, run by the SentencePiece library. What is peculiar: a GGUF file from llama.cpp's converter
// has no SentencePiece model any more, only lists of pieces, scores and types, so the model's protobuf is written again here
// by hand (the message classes aren't installed with the library). glmd's own files carry the model whole. On top of it
// come the rules that ChatGLM's Python code adds: names for the ids after the pieces, ChatGLM-6B's pieces for line breaks,
// tabs and runs of blanks, and an offset for its first release.
#include "engine/tokenizers/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/checkpoint/gguf.h"
#include "engine/tokenizers/specials.h"
#include "engine/tokenizers/utf8.h"

namespace glmd {

namespace {

constexpr std::string_view blank_mark = "\xe2\x96\x81";  // U+2581, SentencePiece's blank
constexpr std::size_t longest_blank_run = 80;

/// The ids behind the pieces of ChatGLM2 and ChatGLM3, in order. Only role marks are looked for in text.
constexpr std::array<std::string_view, 9> chatglm_extras = {"[MASK]",     "[gMASK]",  "[sMASK]",       "sop",            "eop",
                                                            "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"};
/// ChatGLM-6B's special pieces: ordinary ones in its model.
constexpr std::array<std::string_view, 9> chatglm1_specials = {"[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>",
                                                               "<eop>",  "<ENC>",   "<dBLOCK>", "<pad>"};
/// Those its tokenizer cuts out of a text; the others reach SentencePiece.
constexpr std::array<std::string_view, 5> chatglm1_cut = {"[MASK]", "<sop>", "<eop>", "<pad>", "<unk>"};

/// Protobuf's wire format, as much as a model needs.
class Message {
public:
    void number(int field, std::uint64_t value) {
        varint(static_cast<std::uint64_t>(field) << 3);
        varint(value);
    }
    void real(int field, float value) {
        varint(static_cast<std::uint64_t>(field) << 3 | 5);
        char bytes[sizeof(value)];
        std::memcpy(bytes, &value, sizeof(value));
        bytes_.append(bytes, sizeof(value));
    }
    void text(int field, std::string_view value) {
        varint(static_cast<std::uint64_t>(field) << 3 | 2);
        varint(value.size());
        bytes_ += value;
    }
    const std::string& bytes() const { return bytes_; }

private:
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
        bytes_ += static_cast<char>(value);
    }
    std::string bytes_;
};

std::vector<double> types_of(const Gguf& file, std::size_t count) {
    if (!file.has("tokenizer.ggml.token_type")) return std::vector<double>(count, 1);
    auto types = file.numbers("tokenizer.ggml.token_type");
    if (types.size() != count)
        throw ModelError(file.path() + ": the tokenizer has " + std::to_string(count) + " tokens but " +
                         std::to_string(types.size()) + " token types.");
    return types;
}

bool is(double type, TokenType wanted) { return type == static_cast<double>(wanted); }

/// The model behind tokenizer.ggml.tokens, .scores and .token_type.
std::string rebuilt_model(const Gguf& file) {
    const auto& tokens = file.strings("tokenizer.ggml.tokens");
    auto scores = file.numbers("tokenizer.ggml.scores");
    auto types = types_of(file, tokens.size());
    if (scores.size() != tokens.size())
        throw ModelError(file.path() + ": the tokenizer has " + std::to_string(tokens.size()) + " tokens but " +
                         std::to_string(scores.size()) + " scores.");
    Message model;
    std::size_t byte_pieces = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        auto type = types[i];
        std::string text(tokens[i]);
        if (!(type >= 1 && type <= 6) || !std::isfinite(scores[i]) || text.find('\0') != std::string::npos)
            throw ModelError(file.path() + ": token " + std::to_string(i) + " of the tokenizer is damaged.");
        if (is(type, TokenType::user_defined) && looks_like_markup(text)) type = static_cast<double>(TokenType::control);
        if (text.empty()) {
            text = "[PAD" + std::to_string(i) + "]";
            type = static_cast<double>(TokenType::unused);
        }
        if (is(type, TokenType::byte)) ++byte_pieces;
        Message piece;
        piece.text(1, text);
        piece.real(2, static_cast<float>(scores[i]));
        piece.number(3, static_cast<std::uint64_t>(type));
        model.text(1, piece.bytes());
    }
    Message trainer;
    trainer.number(3, 2);  // BPE
    if (byte_pieces > 0) trainer.number(35, 1);
    model.text(2, trainer.bytes());
    Message normalizer;
    normalizer.text(1, "identity");
    normalizer.number(3, file.boolean("tokenizer.ggml.add_space_prefix", true) ? 1 : 0);
    normalizer.number(4, file.boolean("tokenizer.ggml.remove_extra_whitespaces", false) ? 1 : 0);
    normalizer.number(5, 1);
    model.text(3, normalizer.bytes());
    return model.bytes();
}

class SentencePieceTokenizer final : public Tokenizer {
public:
    explicit SentencePieceTokenizer(const Gguf& file) : whole_(file.has("glmd.tokenizer.sentencepiece")) {
        std::string model;
        if (whole_) {
            auto bytes = file.bytes("glmd.tokenizer.sentencepiece");
            model.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        } else {
            model = rebuilt_model(file);
        }
        auto status = processor_.LoadFromSerializedProto(model);
        if (!status.ok() || processor_.GetPieceSize() == 0)
            throw ModelError(file.path() + ": SentencePiece rejects the tokenizer: " + std::string(status.message()) + ".");
        std::string probe;
        strips_ = processor_.Decode(std::vector<std::string>{std::string(blank_mark), "x"}, &probe).ok() && probe == "x";

        auto offset = file.integer("glmd.tokenizer.id_offset", 0);
        if (offset < 0 || offset > (1 << 20)) throw ModelError(file.path() + ": the tokenizer's id offset is out of range.");
        offset_ = static_cast<int>(offset);
        const auto pre = file.string("tokenizer.ggml.pre", "default");
        const int count = processor_.GetPieceSize();
        auto holds = [&](std::string_view piece) { return !processor_.IsUnknown(processor_.PieceToId(piece)); };
        chatglm_ = pre == "chatglm-spm";
        chatglm1_ = pre == "chatglm1" || (pre == "default" && holds("<|blank_2|>") && holds("<|blank_80|>") && holds("<n>"));

        strip_ = file.boolean("glmd.tokenizer.strips_around_specials", chatglm1_);

        pieces_.resize(static_cast<std::size_t>(count + offset_));
        special_.resize(pieces_.size(), false);
        for (int i = 0; i < count; ++i) add_piece(i);
        if (file.has("tokenizer.ggml.tokens")) add_listed(file);
        if (chatglm_) add_chatglm_extras();
        if (chatglm1_) add_chatglm1_specials();
        // llama.cpp's converter renames ChatGLM's <s> and </s>.
        for (auto [name, other] : {std::pair{"</s>", "<eos>"}, std::pair{"<s>", "<bos>"}}) {
            if (auto id = specials_.find(other)) specials_.add(name, *id, false);
            else if (auto same = specials_.find(name)) specials_.add(other, *same, false);
        }
    }

    std::vector<TokenId> encode(std::string_view text, Specials specials) const override {
        std::vector<TokenId> out;
        if (specials == Specials::as_text) {
            encode_text(text, true, out);
            return out;
        }
        for (const auto& part : specials_.split(text, strip_)) {
            if (part.id) out.push_back(*part.id);
            else encode_text(part.text, false, out);
        }
        return out;
    }

    std::string piece(TokenId id) const override {
        if (id < 0 || id >= size() || is_special(id)) return {};
        return pieces_[static_cast<std::size_t>(id)];
    }

    std::optional<TokenId> special(std::string_view name) const override { return specials_.find(name); }
    bool is_special(TokenId id) const override { return id >= 0 && id < size() && special_[static_cast<std::size_t>(id)]; }
    int size() const override { return static_cast<int>(pieces_.size()); }
    bool strips_leading_space() const override { return strips_; }
    bool marks_each_bad_byte() const override { return true; }

    std::string decode(std::span<const TokenId> ids) const override {
        std::string bytes;
        bool at_start = true;
        for (auto id : ids) {
            auto text = piece(id);
            if (text.empty()) continue;
            if (at_start && strips_ && processor_.IdToPiece(id - offset_ < processor_.GetPieceSize() ? id - offset_ : 0)
                                           .starts_with(blank_mark))
                text.erase(0, 1);
            at_start = false;
            bytes += text;
        }
        return take_utf8(bytes, true, true);
    }

private:
    void add_piece(int i) {
        auto at = static_cast<std::size_t>(i + offset_);
        const auto& text = processor_.IdToPiece(i);
        if (processor_.IsControl(i)) {
            special_[at] = true;
            // Upstream's Python code around a whole model cuts out the names it added itself and <unk>, no other piece.
            specials_.add(text, static_cast<TokenId>(at), !whole_ && (!chatglm_ || text.starts_with("<|")));
        } else if (processor_.IsUnknown(i)) {
            if (whole_ && !chatglm_) specials_.add(text, static_cast<TokenId>(at));
            if (!chatglm_) pieces_[at] = " \xe2\x81\x87 ";  // SentencePiece's own mark; ChatGLM2 and 3 show nothing
        } else if (processor_.IsByte(i)) {
            pieces_[at] = std::string(1, static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16)));  // <0xAB>
        } else if (!processor_.IsUnused(i)) {
            auto& piece = pieces_[at];
            for (std::string_view left = text; !left.empty();) {
                bool blank = left.starts_with(blank_mark);
                piece += blank ? ' ' : left.front();
                left.remove_prefix(blank ? blank_mark.size() : 1);
            }
        }
    }

    /// A whole model may come with a longer list of tokens: the names of what the Python code added behind it.
    void add_listed(const Gguf& file) {
        const auto& tokens = file.strings("tokenizer.ggml.tokens");
        auto types = types_of(file, tokens.size());
        for (std::size_t i = pieces_.size(); i < tokens.size(); ++i) {
            bool special = is(types[i], TokenType::control) || is(types[i], TokenType::user_defined);
            pieces_.emplace_back();
            special_.push_back(special);
            if (special) specials_.add(tokens[i], static_cast<TokenId>(i), !chatglm_ || tokens[i].starts_with("<|"));
        }
    }

    /// The converter writes "[PAD64789]" and so on where the Python code knows names.
    void add_chatglm_extras() {
        std::size_t first = static_cast<std::size_t>(processor_.GetPieceSize() + offset_);
        if (!whole_)
            for (std::size_t i = 0; i < pieces_.size(); ++i) {
                const auto& text = processor_.IdToPiece(static_cast<int>(i));
                if (text == "[MASK]" || text == "[PAD" + std::to_string(i) + "]") {
                    first = i;
                    break;
                }
            }
        for (std::size_t k = 0; k < chatglm_extras.size(); ++k) {
            if (specials_.find(chatglm_extras[k])) continue;
            auto at = first + k;
            if (at >= pieces_.size()) {
                pieces_.resize(at + 1);
                special_.resize(at + 1, false);
            }
            if (!pieces_[at].empty() || special_[at]) continue;  // the file has other plans for this id
            special_[at] = true;
            specials_.add(chatglm_extras[k], static_cast<TokenId>(at), chatglm_extras[k].starts_with("<|"));
        }
    }

    void add_chatglm1_specials() {
        auto add = [&](std::string_view name, bool special) {
            int i = processor_.PieceToId(name);
            if (processor_.IdToPiece(i) != name) return;
            auto id = static_cast<TokenId>(i + offset_);
            if (special) special_[static_cast<std::size_t>(id)] = true;
            specials_.add(name, id, std::find(chatglm1_cut.begin(), chatglm1_cut.end(), name) != chatglm1_cut.end());
        };
        for (auto name : chatglm1_specials) add(name, true);
        add("<unk>", false);
        auto stands_for = [&](const std::string& name, std::string text) {
            int i = processor_.PieceToId(name);
            if (processor_.IdToPiece(i) == name) pieces_[static_cast<std::size_t>(i + offset_)] = std::move(text);
        };
        stands_for("<n>", "\n");
        stands_for("<|tab|>", "\t");
        for (std::size_t k = 2; k <= longest_blank_run; ++k)
            stands_for("<|blank_" + std::to_string(k) + "|>", std::string(k, ' '));
    }

    static std::string with_blank_pieces(std::string_view text) {
        std::string out;
        for (std::size_t i = 0; i < text.size();) {
            if (text[i] == '\n') out += "<n>";
            else if (text[i] == '\t') out += "<|tab|>";
            else if (text[i] != ' ') out += text[i];
            else {
                auto run = std::min(text.find_first_not_of(' ', i), text.size()) - i;
                run = std::min(run, longest_blank_run);
                out += run == 1 ? " " : "<|blank_" + std::to_string(run) + "|>";
                i += run;
                continue;
            }
            ++i;
        }
        return out;
    }

    void encode_text(std::string_view text, bool only_text, std::vector<TokenId>& out) const {
        if (text.empty()) return;
        std::string rewritten;
        if (chatglm1_) {
            rewritten = with_blank_pieces(text);
            text = rewritten;
        }
        std::vector<int> ids;
        auto status = processor_.Encode(text, &ids);
        if (!status.ok()) throw std::runtime_error("SentencePiece cannot encode a text: " + std::string(status.message()));
        for (int id : ids) {
            if (!only_text || !is_special(id + offset_)) {
                out.push_back(id + offset_);
                continue;
            }
            // A special piece that SentencePiece takes for an ordinary one was typed by somebody: spell it.
            for (char c : processor_.IdToPiece(id)) out.push_back(processor_.PieceToId(std::string(1, c)) + offset_);
        }
    }

    sentencepiece::SentencePieceProcessor processor_;
    bool whole_;
    int offset_ = 0;
    bool strip_ = false;
    bool strips_ = false;
    bool chatglm_ = false;
    bool chatglm1_ = false;
    std::vector<std::string> pieces_;
    std::vector<bool> special_;
    SpecialTokens specials_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const Gguf& file) { return std::make_unique<SentencePieceTokenizer>(file); }

}  // namespace glmd
