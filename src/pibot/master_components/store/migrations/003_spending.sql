-- Version 3: the gateway's model calls, summed up by job, caller, model and day.

-- A job's rows are deleted with it. A caller is a worker's name, 'master' for the planner, or a key's name.
CREATE TABLE job_spending (
    job_id            TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    caller            TEXT NOT NULL,
    model             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    calls             INTEGER NOT NULL,
    estimated         INTEGER NOT NULL,                    -- how many of the calls have estimated tokens
    cost              REAL,                                -- NULL if no call had a price
    PRIMARY KEY (job_id, caller, model)
) WITHOUT ROWID;

CREATE TABLE day_spending (
    day               TEXT NOT NULL,                       -- UTC: 2026-11-24
    caller            TEXT NOT NULL,
    model             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    calls             INTEGER NOT NULL,
    estimated         INTEGER NOT NULL,
    cost              REAL,
    PRIMARY KEY (day, caller, model)
) WITHOUT ROWID;

ALTER TABLE job ADD COLUMN cost REAL;

-- Tokens that the gateway counted for an attempt, so that its worker's report does not count them again.
ALTER TABLE attempt ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN completion_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN llm_calls INTEGER NOT NULL DEFAULT 0;

-- Finds the lease of a worker.
CREATE INDEX subtask_leased ON subtask (worker_id) WHERE state = 'leased';
