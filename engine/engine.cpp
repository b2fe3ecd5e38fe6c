// The engine's thread. A step is: look into the mailbox, admit what fits, put one row of every answering sequence and up to
// `prefill_rows` prompt tokens of one waiting sequence into a batch, run the model, sample, hand out the text.
#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <thread>

#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "engine/sequence.h"
#include "engine/step_buffers.h"

namespace glmd {

bool StopFilter::push(std::string_view text, std::string& out) {
    if (stops_.empty()) {
        out += text;
        return false;
    }
    held_ += text;
    std::size_t first = std::string::npos;
    for (const std::string& s : stops_)
        if (!s.empty()) first = std::min(first, held_.find(s));
    if (first != std::string::npos) {
        out += held_.substr(0, first);
        held_.clear();
        return true;
    }
    // Keep the longest tail that is the beginning of a stop string.
    std::size_t keep = 0;
    for (const std::string& s : stops_)
        for (std::size_t n = std::min(held_.size(), s.size()); n > keep; --n)
            if (held_.compare(held_.size() - n, n, s, 0, n) == 0) keep = n;
    out += held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return false;
}

namespace {

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

class RunningGeneration final : public Generation {
public:
    RunningGeneration(std::shared_ptr<std::atomic<bool>> flag, std::function<void()> wake)
        : flag_(std::move(flag)), wake_(std::move(wake)) {}
    ~RunningGeneration() override { cancel(); }
    void cancel() override {
        if (!flag_->exchange(true)) wake_();
    }

private:
    std::shared_ptr<std::atomic<bool>> flag_;
    std::function<void()> wake_;
};

class EngineThread final : public Engine {
public:
    EngineThread(LoadedModel loaded, const EngineOptions& options)
        : loaded_(std::move(loaded)), options_(options), cache_(loaded_.pool->blocks()),
          max_blocks_((loaded_.info.context + kv_block_tokens - 1) / kv_block_tokens),
          buffers_(*loaded_.backend, options.prefill_rows + options.max_sequences, options.max_sequences, max_blocks_),
          end_ids_(loaded_.end_ids), mailbox_(std::make_shared<Mailbox>()) {
        status_.kv_blocks = cache_.total();
        thread_ = std::thread([this] { run(); });
    }

    ~EngineThread() override {
        {
            std::lock_guard lock(mailbox_->mutex);
            mailbox_->stopping = true;
        }
        mailbox_->wake.notify_all();
        thread_.join();
    }

    const ModelInfo& model() const override { return loaded_.info; }
    const Tokenizer& tokenizer() const override { return *loaded_.tokenizer; }
    const ChatTemplate& chat_template() const override { return *loaded_.chat_template; }

    EngineStatus status() const override {
        std::lock_guard lock(mailbox_->mutex);
        EngineStatus s = status_;
        s.queued += static_cast<int>(mailbox_->arrivals.size());
        return s;
    }

    Submitted submit(GenerationRequest request, GenerationSink sink) override {
        const int prompt = static_cast<int>(request.prompt.size());
        if (prompt == 0) return {SubmitError::empty, nullptr};
        if (prompt >= loaded_.info.context) return {SubmitError::too_long, nullptr};
        const int room = loaded_.info.context - prompt;
        if (request.max_tokens <= 0 || request.max_tokens > room) request.max_tokens = room;
        if (blocks_for(request) > cache_.total()) return {SubmitError::too_long, nullptr};

        auto flag = std::make_shared<std::atomic<bool>>(false);
        {
            std::lock_guard lock(mailbox_->mutex);
            if (mailbox_->stopping) return {SubmitError::stopping, nullptr};
            const int waiting = status_.queued + static_cast<int>(mailbox_->arrivals.size());
            if (waiting >= options_.max_queue || (waiting > 0 && mailbox_->waiting_tokens + prompt > options_.max_queued_tokens))
                return {SubmitError::queue_full, nullptr};
            mailbox_->waiting_tokens += prompt;
            mailbox_->arrivals.push_back(
                std::make_unique<Sequence>(std::move(request), std::move(sink), *loaded_.tokenizer, flag));
        }
        mailbox_->wake.notify_all();
        // The handle outlives the engine when a connection does: it holds the mailbox, not the engine.
        return {SubmitError::none, std::make_unique<RunningGeneration>(flag, [m = mailbox_] {
                    { std::lock_guard lock(m->mutex); m->poked = true; }
                    m->wake.notify_all();
                })};
    }

private:
    struct Mailbox {
        std::mutex mutex;
        std::condition_variable wake;
        std::deque<std::unique_ptr<Sequence>> arrivals;
        std::int64_t waiting_tokens = 0;
        bool stopping = false, poked = false;
    };

    int blocks_for(const GenerationRequest& r) const {
        return (static_cast<int>(r.prompt.size()) + r.max_tokens + kv_block_tokens - 1) / kv_block_tokens;
    }

    void run() {
        while (true) {
            {
                std::unique_lock lock(mailbox_->mutex);
                if (running_.empty() && queue_.empty())
                    mailbox_->wake.wait(lock, [&] { return mailbox_->stopping || !mailbox_->arrivals.empty(); });
                mailbox_->poked = false;
                while (!mailbox_->arrivals.empty()) {
                    queue_.push_back(std::move(mailbox_->arrivals.front()));
                    mailbox_->arrivals.pop_front();
                }
                if (mailbox_->stopping) break;
            }
            drop_ended(queue_);
            drop_ended(running_);
            admit();
            if (!running_.empty()) {
                try {
                    step();
                } catch (const std::exception& e) {
                    // A backend that failed once isn't trusted with these sequences any more.
                    while (!running_.empty()) finish(running_, running_.begin(), FinishReason::error, e.what());
                }
            }
            publish();
        }
        while (!queue_.empty()) finish(queue_, queue_.begin(), FinishReason::cancelled, {});
        while (!running_.empty()) finish(running_, running_.begin(), FinishReason::cancelled, {});
        publish();
    }

    using Sequences = std::list<std::unique_ptr<Sequence>>;

    void drop_ended(Sequences& list) {
        const auto now = Clock::now();
        for (auto it = list.begin(); it != list.end();) {
            Sequence& s = **it;
            if (s.cancelled->load()) it = finish(list, it, FinishReason::cancelled, {});
            else if (now >= s.request.deadline) it = finish(list, it, FinishReason::deadline, {});
            else ++it;
        }
    }

    void admit() {
        while (!queue_.empty() && static_cast<int>(running_.size()) < options_.max_sequences) {
            Sequence& s = *queue_.front();
            if (!cache_.take(blocks_for(s.request), s.blocks)) return;  // first come, first served: nobody overtakes
            s.started = Clock::now();
            s.layout = loaded_.model->layout(s.request.prompt, s.request.blanks);
            {
                std::lock_guard lock(mailbox_->mutex);
                mailbox_->waiting_tokens -= static_cast<std::int64_t>(s.request.prompt.size());
            }
            running_.splice(running_.end(), queue_, queue_.begin());
        }
    }

    void step() {
        const auto begin = Clock::now();
        Model& model = *loaded_.model;
        buffers_.clear();
        std::vector<Sequence*> wanted;  // by logit row
        Sequence* filling = nullptr;
        int decoding = 0;
        for (auto& p : running_) {
            if (p->prefilling()) {
                if (!filling) filling = p.get();
                continue;
            }
            add_rows(*p, p->cached, 1);
            wanted.push_back(p.get());
            ++decoding;
        }
        // A prompt that sees itself in both directions goes through layer by layer, unless it fits in one chunk.
        const int prompt = filling ? static_cast<int>(filling->request.prompt.size()) : 0;
        const bool by_layers = filling && filling->layout.bidirectional > 0 && prompt > options_.prefill_rows;
        int chunk = 0;
        if (filling && !by_layers) {
            chunk = std::min(options_.prefill_rows, prompt - filling->cached);
            add_rows(*filling, filling->cached, chunk);
            if (filling->cached + chunk == prompt) wanted.push_back(filling);
            else buffers_.logit_rows.pop_back();
        }
        if (!buffers_.ids.empty()) {
            const Step s = buffers_.upload(*loaded_.pool, loaded_.precision);
            model.embed(s);
            for (int l = 0; l < model.config().layers; ++l) {
                model.keys(s, l);
                model.rest(s, l);
            }
            if (!wanted.empty()) take_logits(s);
            for (auto& p : running_)
                if (!p->prefilling()) ++p->cached;
            if (chunk > 0) filled(*filling, chunk);
            accept_all(wanted);
        }
        if (by_layers) layer_unit(*filling);
        ++steps_;
        if (decoding > 0 && !filling) {  // a smoothed rate, of pure decode steps
            const double rate = decoding / std::max(seconds(Clock::now() - begin), 1e-9);
            decode_rate_ = decode_rate_ == 0 ? rate : 0.9 * decode_rate_ + 0.1 * rate;
        }
    }

    /// Rows of a sequence's tokens [first, first + count); logits of the last one are asked for.
    void add_rows(const Sequence& s, int first, int count) {
        const int index = buffers_.add_sequence(s.blocks, s.layout.bidirectional);
        for (int i = first; i < first + count; ++i) {
            const auto [position, block] = s.place(i);
            const bool in_prompt = i < static_cast<int>(s.request.prompt.size());
            buffers_.add_row(in_prompt ? s.request.prompt[i] : s.next, position, block, i, index);
        }
        buffers_.logit_rows.push_back(static_cast<int>(buffers_.ids.size()) - 1);
    }

    /// One unit, (layer, half, rows), of a bidirectional prompt's prefill.
    void layer_unit(Sequence& s) {
        Model& model = *loaded_.model;
        const int prompt = static_cast<int>(s.request.prompt.size()), layers = model.config().layers;
        const int rows = std::min(options_.prefill_rows, prompt - s.fill_row);
        buffers_.clear();
        add_rows(s, s.fill_row, rows);
        const Step step = buffers_.upload(*loaded_.pool, loaded_.precision, options_.prefill_rows + options_.max_sequences + s.fill_row);
        if (s.fill_rest) {
            model.rest(step, s.fill_layer);
        } else {
            if (s.fill_layer == 0) model.embed(step);
            model.keys(step, s.fill_layer);
        }
        s.fill_row += rows;
        if (s.fill_row < prompt) return;
        if (s.fill_rest && s.fill_layer == layers - 1) {  // this unit held the prompt's last row
            take_logits(step);
            filled(s, prompt);
            accept_all({&s});
            return;
        }
        s.fill_row = 0;
        if (s.fill_rest) ++s.fill_layer;
        s.fill_rest = !s.fill_rest;
        if (s.sink.on_prefill) s.sink.on_prefill(static_cast<int>(std::int64_t(prompt) * (2 * s.fill_layer + s.fill_rest) / (2 * layers)), prompt);
    }

    void take_logits(const Step& step) {
        const Activations logits = loaded_.model->logits(step);
        logits_.resize(std::size_t(logits.rows) * logits.cols);
        loaded_.backend->download(logits_.data(), logits.data, logits_.size() * sizeof(float));
    }

    void filled(Sequence& s, int tokens) {
        s.cached += tokens;
        prompt_tokens_ += tokens;
        if (s.sink.on_prefill) s.sink.on_prefill(s.cached, static_cast<int>(s.request.prompt.size()));
        if (!s.prefilling()) s.prefilled = Clock::now();
    }

    void accept_all(const std::vector<Sequence*>& wanted) {
        const std::size_t vocabulary = loaded_.model->config().vocabulary;
        for (std::size_t i = 0; i < wanted.size(); ++i) accept(*wanted[i], {logits_.data() + i * vocabulary, vocabulary});
    }

    /// One new token of a sequence: text out, or the end.
    void accept(Sequence& s, std::span<const float> logits) {
        for (float x : {logits[0], logits[logits.size() / 2], logits.back()})
            if (!std::isfinite(x)) return end(s, FinishReason::error, "the model produced numbers that aren't finite");
        const TokenId id = s.sampler.sample(logits);
        if (std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end()) return end(s, FinishReason::stop, {});
        s.next = id;
        ++s.generated;
        ++completion_tokens_;
        if (s.sink.on_token) s.sink.on_token(id);
        std::string out;
        const bool stopped = s.stop.push(s.decoder.push(id), out);
        if (!out.empty()) s.sink.on_text(std::move(out));
        if (stopped) return end(s, FinishReason::stop, {}, true);
        if (s.generated >= s.request.max_tokens) end(s, FinishReason::length, {});
    }

    void end(Sequence& s, FinishReason reason, std::string message, bool stop_string = false) {
        if (!stop_string && reason != FinishReason::error) {
            std::string out;
            if (!s.stop.push(s.decoder.finish(), out)) out += s.stop.rest();
            if (!out.empty()) s.sink.on_text(std::move(out));
        }
        auto it = std::find_if(running_.begin(), running_.end(), [&](auto& p) { return p.get() == &s; });
        finish(running_, it, reason, std::move(message));
    }

    Sequences::iterator finish(Sequences& list, Sequences::iterator it, FinishReason reason, std::string message) {
        Sequence& s = **it;
        cache_.give_back(s.blocks);
        Usage u;
        u.prompt_tokens = static_cast<int>(s.request.prompt.size());
        u.completion_tokens = s.generated;
        const auto now = Clock::now();
        const bool started = s.started != Clock::time_point{}, prefilled = s.prefilled != Clock::time_point{};
        u.queue_s = seconds((started ? s.started : now) - s.submitted);
        if (started) u.prefill_s = seconds((prefilled ? s.prefilled : now) - s.started);
        if (prefilled) u.decode_s = seconds(now - s.prefilled);
        ++requests_;
        if (&list == &queue_) {
            std::lock_guard lock(mailbox_->mutex);
            mailbox_->waiting_tokens -= u.prompt_tokens;
        }
        const std::unique_ptr<Sequence> ended = std::move(*it);
        it = list.erase(it);
        publish();  // first, so that whoever has an answer finds the engine without it
        ended->sink.on_finish(reason, u, std::move(message));
        return it;
    }

    void publish() {
        std::lock_guard lock(mailbox_->mutex);
        status_.running = static_cast<int>(running_.size());
        status_.queued = static_cast<int>(queue_.size());
        status_.kv_blocks_used = cache_.total() - cache_.free();
        status_.prompt_tokens = prompt_tokens_;
        status_.completion_tokens = completion_tokens_;
        status_.requests = requests_;
        status_.decode_tokens_per_s = decode_rate_;
        status_.steps = steps_;
    }

    LoadedModel loaded_;
    EngineOptions options_;
    KvCache cache_;
    int max_blocks_;
    StepBuffers buffers_;
    std::vector<TokenId> end_ids_;
    std::vector<float> logits_;
    Sequences queue_, running_;
    std::uint64_t prompt_tokens_ = 0, completion_tokens_ = 0, requests_ = 0, steps_ = 0;
    double decode_rate_ = 0;

    std::shared_ptr<Mailbox> mailbox_;
    EngineStatus status_;  // guarded by the mailbox's mutex
    std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const std::string& gguf_path, const EngineOptions& options) {
    if (options.max_sequences < 1 || options.prefill_rows < 1) throw ModelError("max_sequences and prefill_rows must be positive");
    return std::make_unique<EngineThread>(load_model(gguf_path, options), options);
}

}  // namespace glmd
