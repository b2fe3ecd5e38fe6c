// A snapshot's folder after an accident, sealed when the first byte is odd; then a list of changes to its files. What is read back is what was
// written, or nothing.
// Each change: which file, how (overwrite, cut, append), where (3 bytes), how many bytes, and these.
#include <array>
#include <cstring>
#include <vector>

#include "storage/kv_snapshots.h"
#include "storage/sealing.h"
#include "tests/fuzz/fuzz.h"

using namespace glmd;

namespace {

std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::Folder folder;
    static const std::vector<std::int32_t> tokens{1, 2, 3, 4, 5};
    static const std::vector<std::byte> block(1000, std::byte{0x5a});
    static const Identity identity{1000, "app"};
    static const auto key = [] {
        SecretKey secret;
        std::memset(secret.data(), 7, SecretKey::size);
        return std::make_shared<const MasterKey>(secret);
    }();
    if (size == 0) return 0;
    const bool sealed = data[0] % 2 == 1;
    ++data, --size;
    KvSnapshotOptions options;
    options.directory = folder.file("kv");
    options.day = [] { return std::int64_t(1); };
    if (sealed) options.key = key;
    using Files = std::vector<std::pair<std::string, std::string>>;
    static std::array<Files, 2> made;
    Files& fresh = made[sealed];
    if (fresh.empty()) {
        std::filesystem::remove_all(options.directory);
        fuzz::require(KvSnapshotStore::open(options)->put(identity, "conv_1", "print", tokens, block), "a snapshot could be written");
        for (const auto& entry : std::filesystem::directory_iterator(options.directory))
            fresh.emplace_back(entry.path().filename(), contents(entry.path()));
    }
    std::filesystem::remove_all(options.directory);
    std::filesystem::create_directory(options.directory);
    auto files = fresh;
    while (size >= 6) {
        std::string& file = files[data[0] % files.size()].second;
        const std::size_t at = file.empty() ? 0 : (data[2] | data[3] << 8 | data[4] << 16) % file.size();
        const std::size_t count = std::min<std::size_t>(data[5], size - 6);
        const std::string_view bytes = fuzz::text_of(data + 6, count);
        if (data[1] % 3 == 0) std::memcpy(file.data() + at, bytes.data(), std::min(count, file.size() - at));
        else if (data[1] % 3 == 1) file.resize(at);
        else file += bytes;
        data += 6 + count, size -= 6 + count;
    }
    for (const auto& [name, bytes] : files) std::ofstream(options.directory + "/" + name, std::ios::binary) << bytes;
    try {
        const auto store = KvSnapshotStore::open(options);
        if (const auto found = store->get(identity, "conv_1", "print")) {
            fuzz::require(found->tokens == tokens, "the tokens are those that were written");
            fuzz::require(std::equal(found->data.begin(), found->data.end(), block.begin(), block.end()), "and so are the keys and values");
        }
        fuzz::require(!store->get({1001, "app"}, "conv_1", "print"), "another user has none");
        store->put(identity, "conv_2", "print", tokens, block);
    } catch (const StorageError&) {  // an index that SQLite can't open
    }
    return 0;
}
