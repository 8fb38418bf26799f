-- A claim is one row, however many objects it has handed out, and is made by one statement.

-- How many claims all instances have made. Whoever makes one counts it, and has made none when another was counted since
-- it looked for objects: so two never hand out the same ones.
CREATE TABLE claim_count (
    one    boolean PRIMARY KEY CHECK (one),
    claims bigint  NOT NULL
) WITH (fillfactor = 20);
INSERT INTO claim_count (one, claims) VALUES (true, 0);

-- What is handed out, and by whom. Written before it is handed out. An object leaves the list with its verdict, unless
-- the verdict removes it; the row goes with the last one.
ALTER TABLE lease RENAME TO lease_of_one;
CREATE TABLE lease (
    owner bigint   NOT NULL,
    -- A number of its owner's.
    claim bigint   NOT NULL,
    seqs  bigint[] NOT NULL
) WITH (toast_tuple_target = 8160);
-- As it is, in its row, up to a thousand.
ALTER TABLE lease ALTER COLUMN seqs SET STORAGE EXTERNAL;
INSERT INTO lease (owner, claim, seqs)
    SELECT owner, claim, array_agg(seq ORDER BY seq) FROM lease_of_one GROUP BY owner, claim;
DROP TABLE lease_of_one;
CREATE INDEX lease_claim ON lease (owner, claim);

-- What was removed may stay in the list of its claim: nothing is found there any more.
CREATE OR REPLACE FUNCTION count_objects() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE counter SET objects = counter.objects + delta.objects,
                           payload_bytes = counter.payload_bytes + delta.payload_bytes
        FROM (SELECT state, count(*) AS objects, sum(payload_bytes) AS payload_bytes
              FROM after_change GROUP BY state ORDER BY state) AS delta
        WHERE counter.state = delta.state;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM payload WHERE seq = ANY (ARRAY(SELECT seq FROM before_change));
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
