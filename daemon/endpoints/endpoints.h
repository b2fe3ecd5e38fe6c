#pragma once
// Every endpoint's handler; routes.cpp says which path is whose.
#include "daemon/application.h"
#include "daemon/http.h"

namespace glmd::endpoints {

using Answer = asio::awaitable<void>;

Answer create_chat_completion(Application&, Exchange&);
Answer create_completion(Application&, Exchange&);
Answer list_models(Application&, Exchange&);
Answer get_model(Application&, Exchange&);
Answer create_conversation(Application&, Exchange&);
Answer list_conversations(Application&, Exchange&);
Answer get_conversation(Application&, Exchange&);
Answer update_conversation(Application&, Exchange&);
Answer delete_conversation(Application&, Exchange&);
Answer create_items(Application&, Exchange&);
Answer list_items(Application&, Exchange&);
Answer get_item(Application&, Exchange&);
Answer delete_item(Application&, Exchange&);
Answer create_response(Application&, Exchange&);
Answer get_response(Application&, Exchange&);
Answer cancel_response(Application&, Exchange&);
Answer count_input_tokens(Application&, Exchange&);
Answer compact_response(Application&, Exchange&);
Answer branch_conversation(Application&, Exchange&);
Answer set_title(Application&, Exchange&);
Answer search_conversations(Application&, Exchange&);
Answer delete_response(Application&, Exchange&);
Answer create_infill(Application&, Exchange&);
Answer create_summary(Application&, Exchange&);
Answer get_summary(Application&, Exchange&);
Answer cancel_summary(Application&, Exchange&);
Answer delete_summary(Application&, Exchange&);
Answer delete_summaries(Application&, Exchange&);
Answer create_backup(Application&, Exchange&);
Answer health(Application&, Exchange&);
Answer status(Application&, Exchange&);
Answer metrics(Application&, Exchange&);

}  // namespace glmd::endpoints
