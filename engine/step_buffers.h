#pragma once
// The rows of one step, gathered on the host and sent to the backend in one copy. Not thread-safe.
#include <vector>

#include "engine/models/model.h"
#include "engine/tokenizer.h"

namespace glmd {

/// The step's tables in backend memory, filled once per step.
class StepBuffers {
public:
    StepBuffers(Backend& backend, int max_rows, int max_sequences, int max_blocks)
        : backend_(backend), max_blocks_(max_blocks),
          ints_(backend.allocate(sizeof(std::int32_t) * (std::size_t(max_rows) * 6 + max_sequences * (max_blocks + 2)))) {}

    std::vector<std::int32_t> ids, positions, block_positions, sequence, slot, logit_rows, tables, bidirectional;

    void clear() {
        for (auto* v : {&ids, &positions, &block_positions, &sequence, &slot, &logit_rows, &tables, &bidirectional}) v->clear();
    }
    int add_sequence(const std::vector<std::int32_t>& blocks, int bidirectional_length) {
        tables.insert(tables.end(), blocks.begin(), blocks.end());
        tables.resize((bidirectional.size() + 1) * max_blocks_, 0);
        bidirectional.push_back(bidirectional_length);
        return static_cast<int>(bidirectional.size()) - 1;
    }
    void add_row(TokenId id, int position, int block_position, int slot_index, int sequence_index) {
        ids.push_back(id);
        positions.push_back(position);
        block_positions.push_back(block_position);
        slot.push_back(slot_index);
        sequence.push_back(sequence_index);
    }
    /// `first_row`: see Step.
    Step upload(KvPool& pool, Precision precision, int first_row = 0) {
        std::vector<std::int32_t> all;
        std::vector<std::size_t> at;
        for (const auto* v : {&ids, &positions, &block_positions, &sequence, &slot, &logit_rows, &tables, &bidirectional}) {
            at.push_back(all.size());
            all.insert(all.end(), v->begin(), v->end());
        }
        auto* base = static_cast<std::int32_t*>(ints_->data());
        backend_.upload(base, all.data(), all.size() * sizeof(std::int32_t));
        Step s;
        s.rows = static_cast<int>(ids.size());
        s.first_row = first_row;
        s.ids = base + at[0];
        s.positions = base + at[1];
        s.block_positions = base + at[2];
        s.tables = {s.rows, static_cast<int>(bidirectional.size()), max_blocks_, base + at[3], base + at[4], base + at[6], base + at[7]};
        const auto alone = [&](std::size_t r) { return r < sequence.size() && (r + 1 == sequence.size() || sequence[r + 1] != sequence[r]); };
        while (alone(std::size_t(s.tables.single_rows))) ++s.tables.single_rows;
        s.kv = &pool;
        s.precision = precision;
        s.logit_rows = base + at[5];
        s.logit_count = static_cast<int>(logit_rows.size());
        return s;
    }

private:
    Backend& backend_;
    int max_blocks_;
    std::unique_ptr<Buffer> ints_;
};

}  // namespace glmd
