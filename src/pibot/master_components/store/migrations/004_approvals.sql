-- Version 4: calls that wait for the owner's approval, and what was decided of them.

CREATE TABLE approval (
    approval_id TEXT PRIMARY KEY,
    job_id      TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    task_id     TEXT NOT NULL,
    worker_id   TEXT NOT NULL,
    remote_id   TEXT NOT NULL,                             -- the task's id on the worker: one attempt's
    call_id     TEXT NOT NULL,                             -- the worker's id for the call
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

-- A call ends with the attempt that it is of, whatever ends that.
CREATE TRIGGER approvals_over AFTER UPDATE OF state ON subtask WHEN OLD.state = 'leased' AND NEW.state <> 'leased' BEGIN
    UPDATE approval SET state = 'over' WHERE job_id = OLD.job_id AND task_id = OLD.task_id AND state = 'waiting';
END;
