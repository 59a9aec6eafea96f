-- The schema of the feedback store, the same text for SQLite and PostgreSQL: only types and statements both have.
-- Times are milliseconds since 1970 (UTC), truth values 0 and 1, and columns named in the plural or `body` hold JSON.

-- A prompt that was answered, with every candidate of its answer.
CREATE TABLE completions (
    id             TEXT PRIMARY KEY,
    created_at     BIGINT NOT NULL,
    model          TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    arm            TEXT,
    user_id        TEXT,
    reward_model   TEXT,
    strategy       TEXT,
    num_candidates BIGINT NOT NULL,
    -- [[choice, candidate index], …]: what a vote is checked against, without reading the body.
    choices        TEXT NOT NULL,
    -- The answer a careful person gives, if this is a gold question. Never leaves the server.
    gold           TEXT,
    -- Messages, sampling, metadata and candidates.
    body           TEXT NOT NULL
);
CREATE INDEX completions_created_at ON completions (created_at);
CREATE INDEX completions_user_id ON completions (user_id);

-- What people say of answers. A changed vote stays, superseded by the one that replaces it.
CREATE TABLE feedback (
    id             TEXT PRIMARY KEY,
    created_at     BIGINT NOT NULL,
    completion_id  TEXT NOT NULL REFERENCES completions (id) ON DELETE CASCADE,
    choice         BIGINT NOT NULL,
    kind           TEXT NOT NULL,
    user_id        TEXT,
    policy_version TEXT NOT NULL,
    replaces       TEXT,
    superseded     BIGINT NOT NULL DEFAULT 0,
    quarantined    TEXT,
    -- Person, answer and kind while the vote is in force: one vote each, also between processes.
    slot           TEXT UNIQUE,
    -- 1 or -1 of a thumb, the stars of a rating.
    score          BIGINT,
    -- Value, comment and tags.
    body           TEXT NOT NULL
);
CREATE INDEX feedback_created_at ON feedback (created_at, id);
CREATE INDEX feedback_completion_id ON feedback (completion_id);
CREATE INDEX feedback_user_id ON feedback (user_id);

-- What was answered to the first request with an Idempotency-Key.
CREATE TABLE idempotency (
    idempotency_key TEXT PRIMARY KEY,
    at              BIGINT NOT NULL,
    request_hash    TEXT NOT NULL,
    feedback_id     TEXT REFERENCES feedback (id) ON DELETE CASCADE,
    body            TEXT NOT NULL
);
CREATE INDEX idempotency_at ON idempotency (at);
CREATE INDEX idempotency_feedback_id ON idempotency (feedback_id);

-- Runs of the shadow trainer.
CREATE TABLE training_runs (
    id            TEXT PRIMARY KEY,
    state         TEXT NOT NULL,
    started_by    TEXT NOT NULL,
    algorithm     TEXT NOT NULL,
    adapter       TEXT NOT NULL,
    base_version  TEXT NOT NULL,
    version       TEXT,
    snapshot      TEXT,
    folder        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    error         TEXT,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL
);
CREATE INDEX training_runs_created_at ON training_runs (created_at);

-- Which version of an adapter answers.
CREATE TABLE serving (
    name             TEXT PRIMARY KEY,
    version          TEXT,
    previous_version TEXT,
    canary           TEXT,
    share            DOUBLE PRECISION NOT NULL,
    since            BIGINT NOT NULL
);

-- The audit log: each event holds the hash of the one before.
CREATE TABLE events (
    seq       BIGINT PRIMARY KEY,
    at        BIGINT NOT NULL,
    kind      TEXT NOT NULL,
    subject   TEXT NOT NULL,
    body      TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash      TEXT NOT NULL
);

-- Its last event. Writers take turns on this row, and a log whose end was cut off no longer fits it.
CREATE TABLE event_head (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    seq  BIGINT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO event_head (one, seq, hash) VALUES (1, 0, '');

-- Who may do what only one process may.
CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
