// The loaded model first, then the other files in STATE/models, which a request loads by naming one.
#include <filesystem>
#include <set>

#include "daemon/endpoints/endpoints.h"

namespace glmd::endpoints {
namespace {

json::object model_json(Application& app, const std::string& id, std::int64_t created) {
    json::object model;
    model["id"] = id;
    model["object"] = "model";
    model["created"] = created;
    model["owned_by"] = "local";
    bool loaded = id == app.model_id() && app.model_state() == ModelState::ready;
    json::object extension;
    extension["loaded"] = loaded;
    if (loaded) {
        extension["context"] = app.engine()->model().context;
        extension["parameters"] = app.engine()->model().parameters;
        extension["architecture"] = app.engine()->model().architecture;
        extension["quantization"] = app.engine()->model().quantization;
    }
    model["glm"] = std::move(extension);
    return model;
}

std::int64_t changed(const std::filesystem::path& path) {
    std::error_code error;
    auto time = std::filesystem::last_write_time(path, error);
    if (error) return 0;
    return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::file_clock::to_sys(time).time_since_epoch()).count();
}

json::array all_models(Application& app, const Identity& identity) {
    const TenantConfig& tenant = app.config.tenant(identity.tenant);
    json::array data;
    std::set<std::string> seen;
    const ModelState state = app.model_state();
    if (tenant.may_use(app.model_id()) && (state == ModelState::ready || state == ModelState::loading || state == ModelState::unloaded)) {
        data.push_back(model_json(app, app.model_id(), changed(app.config.model_path())));
        seen.insert(app.model_id());
    }
    std::error_code error;
    std::set<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(app.config.models_directory(), error))
        if (entry.path().extension() == ".gguf") files.insert(entry.path());
    for (const auto& file : files) {
        std::filesystem::path real = std::filesystem::canonical(file, error);
        if (error) continue;
        std::string id = file.filename() == "default.gguf" ? model_id_of(real.string()) : model_id_of(file.string());
        if (tenant.may_use(id) && seen.insert(id).second) data.push_back(model_json(app, id, changed(real)));
    }
    return data;
}

}  // namespace

Answer list_models(Application& app, Exchange& exchange) {
    json::object list;
    list["object"] = "list";
    list["data"] = all_models(app, exchange.request().identity);
    co_await exchange.respond(json_response(list));
}

Answer get_model(Application& app, Exchange& exchange) {
    std::string id = exchange.request().path_parameters.at(0);
    json::array data = all_models(app, exchange.request().identity);
    for (json::value& model : data) {
        if (model.as_object()["id"].as_string() != id) continue;
        co_await exchange.respond(json_response(model));
        co_return;
    }
    throw HttpError(404, "model_not_found", "There is no model '" + id + "'.", "model");
}

}  // namespace glmd::endpoints
