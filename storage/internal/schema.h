#pragma once

namespace glmd {
/// The text of storage/schema.sql.
extern const char* const schema_v1;
}
