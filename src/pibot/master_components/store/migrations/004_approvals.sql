-- Version 4: tool calls that wait for the owner's approval, and the decisions.

CREATE TABLE approval (
    approval_id TEXT PRIMARY KEY,
    job_id      TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    task_id     TEXT NOT NULL,
    worker_id   TEXT NOT NULL,
    remote_id   TEXT NOT NULL,                             -- the task's id on the worker; each attempt has its own
    call_id     TEXT NOT NULL,                             -- the tool call's id on the worker
    tool        TEXT NOT NULL,
    arguments   TEXT NOT NULL,
    digest      TEXT NOT NULL,
    asked_at    REAL NOT NULL,
    state       TEXT NOT NULL,
    decided_at  REAL,
    decided_by  TEXT,
    reason      TEXT NOT NULL DEFAULT '',
    UNIQUE (remote_id, call_id)
) WITHOUT ROWID;

CREATE INDEX approval_by_job ON approval (job_id, asked_at);
CREATE INDEX approval_waiting ON approval (asked_at) WHERE state = 'waiting';

-- A tool call is over when its attempt ends, for whatever reason.
CREATE TRIGGER approvals_over AFTER UPDATE OF state ON subtask WHEN OLD.state = 'leased' AND NEW.state <> 'leased' BEGIN
    UPDATE approval SET state = 'over' WHERE job_id = OLD.job_id AND task_id = OLD.task_id AND state = 'waiting';
END;
