-- What went wrong at each counted attempt: a JSON array of {"attempt", "at", "error"}, oldest first, the first four and
-- the last twelve; null for none.
ALTER TABLE object ADD COLUMN errors TEXT;
