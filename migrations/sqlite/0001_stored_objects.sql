-- Stored objects, their payloads apart from them, and counters.
--
-- The payload has its own table so that a failed attempt, which changes a count and a time, never writes it again.
-- Times are milliseconds of the Unix epoch. Rows are read leniently: what is damaged is set aside, so nothing is
-- checked here that a damaged file would break anyway.

CREATE TABLE object (
    -- The order of appending. AUTOINCREMENT: a number is never used again, even when its object has left.
    seq                INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The sixteen bytes of a UUID.
    id                 BLOB    NOT NULL,
    app_service_key    TEXT    NOT NULL,
    -- 0 new, 1 success, 2 failed, 3 error
    state              INTEGER NOT NULL,
    pipeline_id        TEXT    NOT NULL,
    pipeline_position  INTEGER NOT NULL,
    version            TEXT    NOT NULL,
    correlation_id     TEXT    NOT NULL,
    -- A JSON object of texts.
    context_data       TEXT    NOT NULL,
    -- 'delivery' with the form its payload had ('delivery', 'delivery-base64', 'delivery-text', 'delivery-json'), or
    -- what the payload is turned back into: 'event', 'bytes', ...
    input_kind         TEXT    NOT NULL,
    -- Of a delivery only.
    input_content_type TEXT,
    input_topic        TEXT,
    attempts           INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    last_attempt_at    INTEGER,
    not_before         INTEGER,
    last_error         TEXT,
    reason             TEXT,
    destination        TEXT,
    ended_at           INTEGER,
    -- What context_data says it is about: by it objects are kept in order. Its index is there only while that is asked
    -- for: it costs every append a page for each device.
    device             TEXT,
    payload_bytes      INTEGER NOT NULL
) STRICT;

CREATE TABLE payload (
    seq   INTEGER PRIMARY KEY REFERENCES object (seq) ON DELETE CASCADE,
    bytes BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX object_id ON object (id);

-- A state in order of seq: pages of a claim and of a list.
CREATE INDEX object_queue ON object (app_service_key, state, seq, last_attempt_at, not_before);

-- What waits for a destination, in order of seq.
CREATE INDEX object_lane ON object (app_service_key, destination, seq, last_attempt_at, not_before)
    WHERE state = 2;

-- What is due when at a destination: objects that only rest, and those that were asked to wait, by either time.
CREATE INDEX object_rested ON object (app_service_key, destination, last_attempt_at)
    WHERE state = 2 AND not_before IS NULL;
CREATE INDEX object_asked_to_wait ON object (app_service_key, destination, not_before, last_attempt_at)
    WHERE state = 2 AND not_before IS NOT NULL;
CREATE INDEX object_asked_to_wait_rested ON object (app_service_key, destination, last_attempt_at, not_before)
    WHERE state = 2 AND not_before IS NOT NULL;

-- The oldest waiting object.
CREATE INDEX object_oldest ON object (app_service_key, created_at)
    WHERE state IN (0, 2);

-- What ended when: history and the error collection.
CREATE INDEX object_ended ON object (app_service_key, state, ifnull(ended_at, created_at))
    WHERE state IN (1, 3);

-- What a process is busy with, and how many starts in a row have found it so. A row of an object that is handed out is
-- written before the object is, and removed with its verdict: what a start finds here was in flight at a crash.
CREATE TABLE crash_mark (
    seq     INTEGER PRIMARY KEY REFERENCES object (seq) ON DELETE CASCADE,
    -- 1 while it is handed out.
    claimed INTEGER NOT NULL,
    crashes INTEGER NOT NULL
) STRICT;

-- How many objects are in each state: counting a million rows would take too long to be asked often.
CREATE TABLE counter (
    owner           TEXT    NOT NULL,
    object_state    INTEGER NOT NULL,
    objects         INTEGER NOT NULL,
    payload_bytes   INTEGER NOT NULL,
    PRIMARY KEY (owner, object_state)
) STRICT, WITHOUT ROWID;

-- A damaged size counts as one a payload can have: no number in a row may bring the counting to an end.
CREATE TRIGGER object_inserted AFTER INSERT ON object BEGIN
    INSERT INTO counter (owner, object_state, objects, payload_bytes)
    VALUES (new.app_service_key, new.state, 1, min(max(new.payload_bytes, 0), 1000000000))
    ON CONFLICT DO UPDATE
    SET objects = objects + 1, payload_bytes = payload_bytes + excluded.payload_bytes;
END;

CREATE TRIGGER object_deleted AFTER DELETE ON object BEGIN
    UPDATE counter
    SET objects = objects - 1,
        payload_bytes = max(payload_bytes - min(max(old.payload_bytes, 0), 1000000000), 0)
    WHERE owner = old.app_service_key AND object_state = old.state;
END;

CREATE TRIGGER object_changed AFTER UPDATE OF state, payload_bytes ON object
WHEN old.state <> new.state OR old.payload_bytes <> new.payload_bytes BEGIN
    UPDATE counter
    SET objects = objects - 1,
        payload_bytes = max(payload_bytes - min(max(old.payload_bytes, 0), 1000000000), 0)
    WHERE owner = old.app_service_key AND object_state = old.state;
    INSERT INTO counter (owner, object_state, objects, payload_bytes)
    VALUES (new.app_service_key, new.state, 1, min(max(new.payload_bytes, 0), 1000000000))
    ON CONFLICT DO UPDATE
    SET objects = objects + 1, payload_bytes = payload_bytes + excluded.payload_bytes;
END;
