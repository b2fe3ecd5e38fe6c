-- Version 1 of the session database. Embedded into the program at build time; run once, inside the migration's transaction.
-- A released version's text never changes: a later version adds a file of its own.
--
-- Every row carries its owner (uid, tenant), and every key starts with it, so that two owners can't even collide.
-- Content, metadata and instructions are sealed BLOBs: one byte of format version, then what the Seal made.
-- Order comes from `sequence` (within a session) and `touched` (between an owner's conversations), never from a clock.

CREATE TABLE conversation (
    uid           INTEGER NOT NULL,
    tenant        TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    touched       INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL DEFAULT 1,   -- never goes back: a removed item's number isn't used again
    metadata      BLOB    NOT NULL,
    PRIMARY KEY (uid, tenant, id)
) STRICT;
CREATE UNIQUE INDEX conversation_touched ON conversation (uid, tenant, touched);

-- previous_response_id is no foreign key on purpose: a response may outlive the one before it (its chain is then broken).
CREATE TABLE response (
    uid                  INTEGER NOT NULL,
    tenant               TEXT    NOT NULL,
    id                   TEXT    NOT NULL,
    conversation_id      TEXT,
    previous_response_id TEXT,
    model                TEXT    NOT NULL,
    instructions         BLOB    NOT NULL,
    metadata             BLOB    NOT NULL,
    status               INTEGER NOT NULL,      -- ResponseStatus
    incomplete_reason    TEXT    NOT NULL DEFAULT '',
    created_at           INTEGER NOT NULL,
    input_tokens         INTEGER NOT NULL DEFAULT 0,
    output_tokens        INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (uid, tenant, id),
    FOREIGN KEY (uid, tenant, conversation_id) REFERENCES conversation (uid, tenant, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX response_conversation ON response (uid, tenant, conversation_id);
CREATE INDEX response_open ON response (status) WHERE status = 0;

-- An item belongs to a conversation, to a response, or to both.
CREATE TABLE item (
    uid             INTEGER NOT NULL,
    tenant          TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    conversation_id TEXT,
    response_id     TEXT,
    output          INTEGER NOT NULL DEFAULT 0, -- 1: the response's answer
    sequence        INTEGER NOT NULL,
    role            TEXT    NOT NULL,
    status          INTEGER NOT NULL,           -- ItemStatus
    created_at      INTEGER NOT NULL,
    content         BLOB    NOT NULL,
    PRIMARY KEY (uid, tenant, id),
    CHECK (conversation_id IS NOT NULL OR response_id IS NOT NULL),
    FOREIGN KEY (uid, tenant, conversation_id) REFERENCES conversation (uid, tenant, id) ON DELETE CASCADE,
    FOREIGN KEY (uid, tenant, response_id) REFERENCES response (uid, tenant, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX item_conversation ON item (uid, tenant, conversation_id, sequence);
CREATE INDEX item_response ON item (uid, tenant, response_id, sequence);
CREATE INDEX item_open ON item (status) WHERE status = 0;

-- What each owner uses, kept by triggers so that a quota check reads one row. A session is a conversation, or a response
-- that starts a chain. Each row counts 256 bytes on top of its BLOBs: many empty rows fill a disk, too.
CREATE TABLE usage (
    uid      INTEGER NOT NULL,
    tenant   TEXT    NOT NULL,
    sessions INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (uid, tenant)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER conversation_added AFTER INSERT ON conversation BEGIN
    INSERT INTO usage VALUES (new.uid, new.tenant, 1, 256 + length(new.metadata))
        ON CONFLICT DO UPDATE SET sessions = sessions + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER conversation_changed AFTER UPDATE OF metadata ON conversation BEGIN
    UPDATE usage SET bytes = bytes + length(new.metadata) - length(old.metadata) WHERE uid = new.uid AND tenant = new.tenant;
END;
CREATE TRIGGER conversation_removed AFTER DELETE ON conversation BEGIN
    UPDATE usage SET sessions = sessions - 1, bytes = bytes - 256 - length(old.metadata)
        WHERE uid = old.uid AND tenant = old.tenant;
END;

CREATE TRIGGER response_added AFTER INSERT ON response BEGIN
    INSERT INTO usage VALUES (new.uid, new.tenant, new.conversation_id IS NULL AND new.previous_response_id IS NULL,
                              256 + length(new.metadata) + length(new.instructions))
        ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER response_removed AFTER DELETE ON response BEGIN
    UPDATE usage SET sessions = sessions - (old.conversation_id IS NULL AND old.previous_response_id IS NULL),
                     bytes = bytes - 256 - length(old.metadata) - length(old.instructions)
        WHERE uid = old.uid AND tenant = old.tenant;
END;

CREATE TRIGGER item_added AFTER INSERT ON item BEGIN
    INSERT INTO usage VALUES (new.uid, new.tenant, 0, 256 + length(new.content))
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER item_changed AFTER UPDATE OF content ON item BEGIN
    UPDATE usage SET bytes = bytes + length(new.content) - length(old.content) WHERE uid = new.uid AND tenant = new.tenant;
END;
CREATE TRIGGER item_removed AFTER DELETE ON item BEGIN
    UPDATE usage SET bytes = bytes - 256 - length(old.content) WHERE uid = old.uid AND tenant = old.tenant;
END;
