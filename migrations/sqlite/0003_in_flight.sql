-- What is handed out has rows of many places each, where it had a row for each object: a claimed page is written in one
-- or two of them, and they leave with its last verdict.
CREATE TABLE in_flight (
    owner     TEXT    NOT NULL,
    -- The places of a row have this number when they are divided by 256.
    neighbours INTEGER NOT NULL,
    -- A JSON array of places, not all of them in use any more.
    places    TEXT    NOT NULL,
    PRIMARY KEY (owner, neighbours)
) STRICT, WITHOUT ROWID;

INSERT INTO in_flight (owner, neighbours, places)
SELECT app_service_key, seq / 256, json_group_array(seq) FROM crash_mark JOIN object USING (seq)
WHERE claimed = 1
GROUP BY app_service_key, seq / 256;

-- Now only how many starts in a row have found an object in flight.
DELETE FROM crash_mark WHERE crashes = 0;
ALTER TABLE crash_mark DROP COLUMN claimed;
