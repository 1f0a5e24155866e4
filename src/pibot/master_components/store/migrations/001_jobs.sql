-- Version 1: jobs, steps, attempts and events. Times are seconds since the epoch; objects are JSON text.

CREATE TABLE job (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,   -- order of acceptance
    job_id            TEXT NOT NULL UNIQUE,
    body              TEXT NOT NULL,                       -- as submitted, to recognise the same job again
    description       TEXT NOT NULL,
    state             TEXT NOT NULL,
    priority          INTEGER NOT NULL,
    timeout           REAL,
    plan              TEXT,
    answer            TEXT,
    error             TEXT,
    prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    llm_calls         INTEGER NOT NULL DEFAULT 0,
    created_at        REAL NOT NULL,
    started_at        REAL,
    finished_at       REAL,
    cancel_requested  INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX job_by_state ON job (state, seq);

-- Finds unfinished jobs quickly, however many jobs have ended.
CREATE INDEX job_unfinished ON job (priority DESC, seq) WHERE state IN ('queued', 'planning', 'running');

-- A step of a plan.
CREATE TABLE subtask (
    job_id      TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    task_id     TEXT NOT NULL,
    position    INTEGER NOT NULL,
    description TEXT NOT NULL,
    skills      TEXT NOT NULL,
    depends_on  TEXT NOT NULL,
    timeout     REAL,
    state       TEXT NOT NULL,
    worker_id   TEXT,                                      -- these four are the lease while the state is 'leased'
    token       TEXT,
    attempt     INTEGER NOT NULL DEFAULT 0,
    expires_at  REAL,
    result      TEXT,
    error       TEXT,
    PRIMARY KEY (job_id, task_id)
) WITHOUT ROWID;

CREATE TABLE attempt (
    job_id      TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    task_id     TEXT NOT NULL,
    number      INTEGER NOT NULL,
    worker_id   TEXT NOT NULL,
    started_at  REAL NOT NULL,
    finished_at REAL,
    error       TEXT,
    late_result TEXT,                                      -- came after the lease was lost; kept as evidence
    PRIMARY KEY (job_id, task_id, number)
) WITHOUT ROWID;

CREATE TABLE event (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at        REAL NOT NULL,
    kind      TEXT NOT NULL,
    job_id    TEXT,
    task_id   TEXT,
    worker_id TEXT,
    message   TEXT NOT NULL
);

-- The number of jobs in each state, so that nothing has to count them.
CREATE TABLE tally (
    state  TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER job_added AFTER INSERT ON job BEGIN
    INSERT OR IGNORE INTO tally VALUES (NEW.state, 0);
    UPDATE tally SET number = number + 1 WHERE state = NEW.state;
END;

CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN OLD.state <> NEW.state BEGIN
    INSERT OR IGNORE INTO tally VALUES (NEW.state, 0);
    UPDATE tally SET number = number + 1 WHERE state = NEW.state;
    UPDATE tally SET number = number - 1 WHERE state = OLD.state;
END;

CREATE TRIGGER job_removed AFTER DELETE ON job BEGIN
    UPDATE tally SET number = number - 1 WHERE state = OLD.state;
END;
