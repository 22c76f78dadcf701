-- The rows of an API's budget, in SQLite and in PostgreSQL. Times are Unix seconds.
CREATE TABLE IF NOT EXISTS pace (
    name TEXT PRIMARY KEY,
    next_at DOUBLE PRECISION NOT NULL DEFAULT 0,        -- when the next call may start
    blocked_until DOUBLE PRECISION NOT NULL DEFAULT 0,  -- nobody calls before
    slowed_to DOUBLE PRECISION NOT NULL DEFAULT 1,      -- fraction of the full rate, at slowed_at
    slowed_at DOUBLE PRECISION NOT NULL DEFAULT 0,
    per_minute DOUBLE PRECISION,                        -- what the API says the limit is
    credits INTEGER,                                    -- calls counted here plus those the API says are left
    learned_at DOUBLE PRECISION
);
CREATE TABLE IF NOT EXISTS calls (
    name TEXT, minute INTEGER, count INTEGER NOT NULL, PRIMARY KEY (name, minute)
);
CREATE TABLE IF NOT EXISTS months (
    name TEXT, month TEXT, count INTEGER NOT NULL, PRIMARY KEY (name, month)
);
