-- Version 6: a plan that met a failure, or whose answer lacked something, gets further steps.

-- Which version of the plan a step came with. The first version is job.plan.
ALTER TABLE subtask ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

CREATE TABLE plan_change (
    job_id    TEXT NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    version   INTEGER NOT NULL,                            -- from 2
    at        REAL NOT NULL,
    why       TEXT NOT NULL,                               -- what failed, or what the answer lacked
    reasoning TEXT NOT NULL,
    PRIMARY KEY (job_id, version)
) WITHOUT ROWID;

CREATE TRIGGER plan_change_sized AFTER INSERT ON plan_change BEGIN
    UPDATE size
    SET bytes = bytes + length(CAST(NEW.why AS BLOB)) + length(CAST(NEW.reasoning AS BLOB))
    WHERE job_id = NEW.job_id;
END;
