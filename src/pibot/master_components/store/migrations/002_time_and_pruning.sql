-- Version 2: time that does not jump, and pruning that is as quick among 100,000 jobs as among 100.

-- Seconds that hubs have run with this file. The time of older jobs counts from now.
CREATE TABLE running_time (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    seconds REAL NOT NULL
);
INSERT INTO running_time VALUES (1, 0);
ALTER TABLE job ADD COLUMN accepted_run REAL NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN finished_run REAL;
UPDATE job SET finished_run = 0 WHERE state IN ('completed', 'failed', 'cancelled');
CREATE INDEX job_ended ON job (finished_run, seq) WHERE state IN ('completed', 'failed', 'cancelled');

-- A late result belongs to the attempt with its lease's token, because the number of an attempt is used again after a
-- busy worker.
ALTER TABLE attempt ADD COLUMN token TEXT;
UPDATE attempt SET token = (
    SELECT token FROM subtask
    WHERE subtask.job_id = attempt.job_id AND subtask.task_id = attempt.task_id AND subtask.attempt = attempt.number
);

-- A job's events are deleted with it.
DELETE FROM event WHERE job_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job WHERE job.job_id = event.job_id);
CREATE INDEX event_by_job ON event (job_id, seq);
CREATE TRIGGER job_events_removed AFTER DELETE ON job BEGIN
    DELETE FROM event WHERE job_id = OLD.job_id;
END;
