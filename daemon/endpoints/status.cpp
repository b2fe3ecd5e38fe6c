// Numbers only: what `glm status` and `glm top` show.
#include "daemon/endpoints/endpoints.h"
#include "daemon/parameters.h"
#include "daemon/version.h"
#include "engine/available_memory.h"
#include "engine/device_facts.h"

namespace glmd::endpoints {
namespace {

std::string_view state_name(ModelState state) {
    switch (state) {
        case ModelState::loading: return "loading";
        case ModelState::ready: return "ready";
        case ModelState::missing: return "no_model";
        case ModelState::unloaded: return "unloaded";
        case ModelState::failed: break;
    }
    return "failed";
}

json::value energy(const std::optional<EnergyAccount::Report>& report) {
    if (!report) return nullptr;
    json::object o{{"source", report->source}, {"joules", report->joules}, {"tokens", report->tokens}};
    o["watts"] = report->watts > 0 ? json::value(report->watts) : nullptr;
    o["tokens_per_joule"] = report->joules > 0 ? json::value(double(report->tokens) / report->joules) : nullptr;
    return o;
}

json::value or_null(const std::string& text) { return text.empty() ? json::value(nullptr) : json::value(text); }
template <class T>
json::value or_null(const std::optional<T>& value) { return value ? json::value(*value) : json::value(nullptr); }

json::object device(const DeviceFacts& facts) {
    json::object temperatures, o;
    for (const Temperature& t : facts.temperatures) temperatures[t.sensor] = t.celsius;
    o["board"] = or_null(facts.board);
    o["temperatures_c"] = std::move(temperatures);
    o["throttled"] = or_null(facts.throttled);
    o["throttled_by"] = json::value_from(facts.throttled_by);
    o["thermal_events"] = or_null(facts.thermal_events);
    o["over_current_events"] = or_null(facts.over_current_events);
    o["power_mode"] = facts.power_mode ? or_null(facts.power_mode->name) : nullptr;
    o["gpu"] = nullptr;
    if (const auto& gpu = facts.gpu) {
        json::object g{{"name", or_null(gpu->name)}, {"driver", or_null(gpu->driver)}, {"integrated", gpu->integrated}};
        g["clock_hz"] = or_null(gpu->clock_hz);
        g["max_clock_hz"] = or_null(gpu->max_clock_hz);
        g["memory"] = nullptr;  // a discrete GPU's is known to its driver only
        if (gpu->integrated)
            g["memory"] = json::object{{"total_bytes", number_of("/proc/meminfo", "MemTotal:") * 1024}, {"available_bytes", available_memory()}};
        o["gpu"] = std::move(g);
    }
    return o;
}

}  // namespace

Answer status(Application& app, Exchange& exchange) {
    const auto [counts, condition] = co_await app.storage.call([](SessionStore& store) { return std::pair(store.counts(), store.condition()); });
    const DeviceFacts facts = co_await run_on(app.text_pool, [] { return device_facts(); });
    json::object body;
    body["object"] = "glm.status";
    body["version"] = version;
    body["uptime_s"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - app.started).count();
    body["requests"] = app.requests;
    body["connections"] = app.connections;
    json::object memory;
    memory["resident_bytes"] = number_of("/proc/self/status", "VmRSS:") * 1024;
    memory["pressure"] = nullptr;
    if (const MemoryPressure& p = app.memory_pressure; p.watched())
        memory["pressure"] = json::object{{"stalled", p.stalled()}, {"kv_drops", p.kv_drops()}, {"unloads", p.unloads()}};
    body["memory"] = std::move(memory);
    body["device"] = device(facts);
    json::object sessions;
    sessions["conversations"] = counts.conversations;
    sessions["responses"] = counts.responses;
    sessions["bytes"] = counts.bytes;
    sessions["encrypted"] = condition.sealed;
    sessions["key"] = or_null(condition.key_id);
    sessions["damaged_files"] = json::value_from(condition.damaged_files);
    body["sessions"] = std::move(sessions);
    body["retention"] = nullptr;
    if (app.config.retention_days > 0 || app.config.retention_bytes > 0) {
        const auto& [due, removed] = app.retention;
        body["retention"] = json::object{{"days", app.config.retention_days}, {"bytes", app.config.retention_bytes}, {"dry_run", app.config.retention_dry_run},
                                         {"due_sessions", due.sessions}, {"due_bytes", due.bytes}, {"removed_sessions", removed.sessions},
                                         {"removed_bytes", removed.bytes}};
    }
    body["snapshots"] = nullptr;
    if (app.snapshots) {
        const KvSnapshotStore::Counts kept = app.snapshots->counts();
        body["snapshots"] = json::object{{"files", kept.files}, {"bytes", kept.bytes}, {"written_bytes", kept.written_bytes},
                                         {"written_today_bytes", kept.written_today_bytes}, {"loaded", kept.loaded}, {"refused", kept.refused}};
    }
    json::object model;
    model["state"] = state_name(app.model_state());
    model["id"] = app.model_id();
    if (const LoadProgress* load = app.loading()) model["loading"] = loading_json(*load);
    body["engine"] = body["energy"] = nullptr;
    if (std::shared_ptr<Engine> engine = app.engine()) {
        const ModelInfo& info = engine->model();
        model["name"] = info.name;
        model["architecture"] = info.architecture;
        model["quantization"] = info.quantization;
        model["parameters"] = info.parameters;
        model["context"] = info.context;
        model["trained_context"] = info.trained_context;
        model["weights"] = info.pass_bytes ? "streamed from disk" : "resident";
        model["weight_bytes"] = info.weight_bytes;
        if (info.pass_bytes) {
            model["pass_bytes"] = info.pass_bytes;
            model["pass_s"] = info.pass_s;
        }
        model["kv_bytes"] = info.kv_bytes;
        model["workspace_bytes"] = info.workspace_bytes;
        model["backend"] = info.backend;
        model["load_s"] = info.load_s;
        EngineStatus now = engine->status();
        json::object work;
        work["running"] = now.running;
        work["queued"] = now.queued;
        json::object classes;
        for (const ServiceClass c : {ServiceClass::priority, ServiceClass::normal, ServiceClass::flex}) {
            json::object one;
            one["running"] = now.running_by_class[index(c)];
            one["queued"] = now.queued_by_class[index(c)];
            classes[service_tier_name(c)] = std::move(one);
        }
        work["classes"] = std::move(classes);
        work["kv_blocks_used"] = now.kv_blocks_used;
        work["kv_blocks_cached"] = now.kv_blocks_cached;
        work["kv_blocks"] = now.kv_blocks;
        work["prompt_tokens"] = now.prompt_tokens;
        work["cached_tokens"] = now.cached_tokens;
        work["resumed_tokens"] = now.resumed_tokens;
        work["completion_tokens"] = now.completion_tokens;
        work["drafted_tokens"] = now.drafted_tokens;
        work["accepted_tokens"] = now.accepted_tokens;
        work["requests"] = now.requests;
        work["pauses"] = now.pauses;
        work["decode_tokens_per_s"] = now.decode_tokens_per_s;
        work["steps"] = now.steps;
        body["engine"] = std::move(work);
        body["energy"] = energy(app.energy.report(now.completion_tokens, std::chrono::steady_clock::now()));
    }
    body["model"] = std::move(model);
    co_await exchange.respond(json_response(body));
}

}  // namespace glmd::endpoints
