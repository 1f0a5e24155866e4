-- Version 3: what the gateway passed on to models, by job, worker, model and day.

-- A job's rows live as long as the job. A caller is a worker's name, 'master' for the planner, or a key's name.
CREATE TABLE job_spending (
    job_id            TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    caller            TEXT NOT NULL,
    model             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    calls             INTEGER NOT NULL,
    estimated         INTEGER NOT NULL,                    -- of the calls: how many tokens were not told, but estimated
    cost              REAL,                                -- NULL where no price was known
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

-- What the gateway counted for an attempt, so that what its worker reports is not counted again.
ALTER TABLE attempt ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN completion_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN llm_calls INTEGER NOT NULL DEFAULT 0;

-- The gateway finds a worker's lease by its name.
CREATE INDEX subtask_leased ON subtask (worker_id) WHERE state = 'leased';
