#pragma once
// Messages of the chat and the stateful APIs: from JSON, to JSON, and into a prompt.
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/application.h"
#include "daemon/http.h"
#include "engine/engine.h"

namespace glmd {

/// Chat's "messages". Throws HttpError 400.
std::vector<ChatMessage> read_messages(const json::array& messages, const std::string& param);
/// Responses' "input" (a string or an array of messages) and conversations' "items".
std::vector<Item> read_input(const json::value& input, const std::string& param);
std::vector<Item> read_items(const json::array& items, const std::string& param);

json::object item_json(const Item& item);
std::string_view status_name(ItemStatus status);

/// Ids of a prompt, made on the text pool.
asio::awaitable<std::vector<TokenId>> render_prompt(Application& app, std::shared_ptr<Engine> engine, std::vector<ChatMessage> messages);

/// Drops the oldest messages after the leading system ones until the prompt leaves `reserve` tokens. The last stays.
struct Truncated {
    std::vector<TokenId> prompt;
    std::size_t dropped = 0;
};
asio::awaitable<Truncated> render_truncated(Application& app, std::shared_ptr<Engine> engine, std::vector<ChatMessage> messages, int reserve);

std::int64_t unix_now();

}  // namespace glmd
