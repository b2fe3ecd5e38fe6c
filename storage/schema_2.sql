-- Version 2: whether a response goes on without its client, and may be streamed again.
ALTER TABLE response ADD COLUMN background INTEGER NOT NULL DEFAULT 0;
