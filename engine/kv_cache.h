#pragma once
// Which blocks of the pool are free. The pool itself is the backend's; a sequence gets all the blocks it may need when it
// is admitted, so that nothing can run out of memory in the middle of an answer.
#include <cstdint>
#include <vector>

namespace glmd {

class KvCache {
public:
    explicit KvCache(int blocks) : total_(blocks) {
        for (int i = blocks - 1; i >= 0; --i) free_.push_back(i);
    }
    int total() const { return total_; }
    int free() const { return static_cast<int>(free_.size()); }
    /// All or nothing.
    bool take(int count, std::vector<std::int32_t>& out) {
        if (count > free()) return false;
        out.insert(out.end(), free_.end() - count, free_.end());
        free_.resize(free_.size() - count);
        return true;
    }
    void give_back(std::vector<std::int32_t>& blocks) {
        free_.insert(free_.end(), blocks.begin(), blocks.end());
        blocks.clear();
    }

private:
    int total_;
    std::vector<std::int32_t> free_;
};

}  // namespace glmd
