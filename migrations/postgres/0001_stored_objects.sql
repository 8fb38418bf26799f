-- Stored objects, their payloads apart from them, who has them in hand, and counters. All in the schema named after the
-- service key, beside the tables `store` and `schema_migrations` that EdgeX's own service keeps there and that nothing
-- here touches.
--
-- Times of objects are milliseconds of the Unix epoch. Names are compared byte by byte, whatever the language of the
-- database.

-- The running services that share these tables. One whose heartbeat stops is taken over by the others.
CREATE TABLE instance (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same for each process that has the same data folder to itself, of which there is one at a time.
    name         text        NOT NULL,
    -- By the clock of the server; '-infinity' when it has ended in order.
    heartbeat_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The order of appending. A number is never used again.
CREATE SEQUENCE object_seq;

CREATE TABLE object (
    seq                bigint   PRIMARY KEY,
    -- The instance that appended it, or put it into a batch: whose end ends the states new and batched.
    owner              bigint   NOT NULL,
    created_at         bigint   NOT NULL,
    last_attempt_at    bigint,
    not_before         bigint,
    ended_at           bigint,
    payload_bytes      bigint   NOT NULL,
    attempts           bigint   NOT NULL,
    pipeline_position  bigint   NOT NULL,
    -- 0 new, 1 success, 2 failed, 3 error, 4 batched
    state              smallint NOT NULL CHECK (state BETWEEN 0 AND 4),
    -- The starts in a row that found it in flight.
    crashes            smallint NOT NULL DEFAULT 0,
    id                 uuid     NOT NULL,
    pipeline_id        text     COLLATE "C" NOT NULL,
    version            text     COLLATE "C" NOT NULL,
    correlation_id     text     COLLATE "C" NOT NULL,
    -- A JSON object of texts, which jsonb would not keep as it is.
    context_data       text     COLLATE "C" NOT NULL,
    -- 'delivery' with the form its payload had ('delivery', 'delivery-base64', 'delivery-text', 'delivery-json'), or
    -- what the payload is turned back into: 'event', 'bytes', ...
    input_kind         text     COLLATE "C" NOT NULL,
    -- Of a delivery only.
    input_content_type text     COLLATE "C",
    input_topic        text     COLLATE "C",
    last_error         text     COLLATE "C",
    -- What went wrong at each counted attempt: an array of {"attempt", "at", "error"}, oldest first.
    errors             jsonb,
    reason             text     COLLATE "C",
    destination        text     COLLATE "C",
    -- What context_data says it is about: by it objects are kept in order.
    device             text     COLLATE "C"
);

-- The payload has its own table so that a failed attempt, which changes a count and a time, never writes it again.
CREATE TABLE payload (
    seq   bigint PRIMARY KEY,
    bytes bytea  NOT NULL
);
-- Most payloads are compressed already, or too short for it.
ALTER TABLE payload ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- What is handed out, and by whom. Written before it is handed out, removed with the verdict.
CREATE TABLE lease (
    seq   bigint PRIMARY KEY,
    owner bigint NOT NULL,
    -- The claim it was handed out by, a number of its owner's.
    claim bigint NOT NULL
);
CREATE INDEX lease_owner ON lease (owner);

CREATE UNIQUE INDEX object_id ON object (id);

-- A state in order of seq: pages of a claim and of a list.
CREATE INDEX object_queue ON object (state, seq);

-- What waits for a destination, in order of seq.
CREATE INDEX object_lane ON object (destination, seq) WHERE state = 2;

-- What is due when at a destination: objects that only rest, and those that were asked to wait, by either time.
CREATE INDEX object_rested ON object (destination, last_attempt_at NULLS FIRST)
    WHERE state = 2 AND not_before IS NULL;
CREATE INDEX object_asked_to_wait ON object (destination, not_before)
    WHERE state = 2 AND not_before IS NOT NULL;
CREATE INDEX object_asked_to_wait_rested ON object (destination, last_attempt_at NULLS FIRST)
    WHERE state = 2 AND not_before IS NOT NULL;

-- What waits of each pipeline and device: its order.
CREATE INDEX object_device ON object (pipeline_id, device, seq) WHERE state IN (0, 2);

-- The oldest waiting object.
CREATE INDEX object_oldest ON object (created_at) WHERE state IN (0, 2);

-- What ended when: history and the error collection.
CREATE INDEX object_ended ON object (state, coalesce(ended_at, created_at)) WHERE state IN (1, 3);

-- What an instance has appended and not yet tried, or waits for in its batches.
CREATE INDEX object_owner ON object (owner) WHERE state IN (0, 4);

-- What was in flight at a crash.
CREATE INDEX object_suspect ON object (seq) WHERE crashes > 0;

-- How many objects are in each state: counting a million rows would take too long to be asked often.
CREATE TABLE counter (
    state         smallint PRIMARY KEY,
    objects       bigint   NOT NULL,
    payload_bytes bigint   NOT NULL
) WITH (fillfactor = 20);
INSERT INTO counter (state, objects, payload_bytes) SELECT state, 0, 0 FROM generate_series(0, 4) AS state;

-- Once for each statement, whatever the number of its rows.
CREATE FUNCTION count_objects() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE counter SET objects = counter.objects + delta.objects,
                           payload_bytes = counter.payload_bytes + delta.payload_bytes
        FROM (SELECT state, count(*) AS objects, sum(payload_bytes) AS payload_bytes
              FROM after_change GROUP BY state ORDER BY state) AS delta
        WHERE counter.state = delta.state;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM payload WHERE seq = ANY (ARRAY(SELECT seq FROM before_change));
        DELETE FROM lease WHERE seq = ANY (ARRAY(SELECT seq FROM before_change));
        UPDATE counter SET objects = counter.objects - delta.objects,
                           payload_bytes = counter.payload_bytes - delta.payload_bytes
        FROM (SELECT state, count(*) AS objects, sum(payload_bytes) AS payload_bytes
              FROM before_change GROUP BY state ORDER BY state) AS delta
        WHERE counter.state = delta.state;
    ELSE
        UPDATE counter SET objects = counter.objects + delta.objects,
                           payload_bytes = counter.payload_bytes + delta.payload_bytes
        FROM (SELECT state, sum(objects) AS objects, sum(payload_bytes) AS payload_bytes
              FROM (SELECT state, 1 AS objects, payload_bytes FROM after_change
                    UNION ALL SELECT state, -1, -payload_bytes FROM before_change) AS change
              GROUP BY state HAVING sum(objects) <> 0 OR sum(payload_bytes) <> 0 ORDER BY state) AS delta
        WHERE counter.state = delta.state;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER object_inserted AFTER INSERT ON object
    REFERENCING NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION count_objects();
CREATE TRIGGER object_deleted AFTER DELETE ON object
    REFERENCING OLD TABLE AS before_change FOR EACH STATEMENT EXECUTE FUNCTION count_objects();
CREATE TRIGGER object_changed AFTER UPDATE ON object
    REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change
    FOR EACH STATEMENT EXECUTE FUNCTION count_objects();
