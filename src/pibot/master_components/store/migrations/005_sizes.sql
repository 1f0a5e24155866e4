-- Version 5: the bytes that each job takes, and their sums, so that nothing has to count them.

-- From here on a job's description is stored once. In a new row, `job.body` holds null in its place, an empty
-- `subtask.description` stands for it, and `job.plan` has no steps, because they are the rows of `subtask`. Older rows
-- keep what they have, and are read too.

CREATE TABLE size (
    job_id TEXT PRIMARY KEY,
    ended  INTEGER NOT NULL,
    bytes  INTEGER NOT NULL                                -- of its texts, and 1000 for all else, such as its events
) WITHOUT ROWID;

CREATE TABLE stored (
    ended INTEGER PRIMARY KEY,                             -- 0: the jobs that have not ended; 1: those that have
    bytes INTEGER NOT NULL
);
INSERT INTO stored VALUES (0, 0), (1, 0);

CREATE TRIGGER size_added AFTER INSERT ON size BEGIN
    UPDATE stored SET bytes = bytes + NEW.bytes WHERE ended = NEW.ended;
END;

CREATE TRIGGER size_changed AFTER UPDATE ON size BEGIN
    UPDATE stored SET bytes = bytes - OLD.bytes WHERE ended = OLD.ended;
    UPDATE stored SET bytes = bytes + NEW.bytes WHERE ended = NEW.ended;
END;

CREATE TRIGGER size_removed AFTER DELETE ON size BEGIN
    UPDATE stored SET bytes = bytes - OLD.bytes WHERE ended = OLD.ended;
END;

-- length() counts a blob's bytes, but a text's characters.
INSERT INTO size
SELECT
    job_id,
    state IN ('completed', 'failed', 'cancelled'),
    1000
    + length(CAST(body AS BLOB)) + length(CAST(description AS BLOB)) + ifnull(length(CAST(plan AS BLOB)), 0)
    + ifnull(length(CAST(answer AS BLOB)), 0) + ifnull(length(CAST(error AS BLOB)), 0)
    + ifnull((
        SELECT sum(length(CAST(description AS BLOB)) + ifnull(length(CAST(result AS BLOB)), 0)
                   + ifnull(length(CAST(error AS BLOB)), 0))
        FROM subtask WHERE subtask.job_id = job.job_id
    ), 0)
    + ifnull((
        SELECT sum(ifnull(length(CAST(error AS BLOB)), 0) + ifnull(length(CAST(late_result AS BLOB)), 0))
        FROM attempt WHERE attempt.job_id = job.job_id
    ), 0)
    + ifnull((SELECT sum(length(CAST(arguments AS BLOB))) FROM approval WHERE approval.job_id = job.job_id), 0)
FROM job;

CREATE TRIGGER job_sized AFTER INSERT ON job BEGIN
    INSERT INTO size VALUES (
        NEW.job_id,
        NEW.state IN ('completed', 'failed', 'cancelled'),
        1000
        + length(CAST(NEW.body AS BLOB)) + length(CAST(NEW.description AS BLOB))
        + ifnull(length(CAST(NEW.plan AS BLOB)), 0) + ifnull(length(CAST(NEW.answer AS BLOB)), 0)
        + ifnull(length(CAST(NEW.error AS BLOB)), 0)
    );
END;

CREATE TRIGGER job_resized AFTER UPDATE OF plan, answer, error ON job
WHEN NEW.plan IS NOT OLD.plan OR NEW.answer IS NOT OLD.answer OR NEW.error IS NOT OLD.error BEGIN
    UPDATE size
    SET bytes = bytes
        + ifnull(length(CAST(NEW.plan AS BLOB)), 0) - ifnull(length(CAST(OLD.plan AS BLOB)), 0)
        + ifnull(length(CAST(NEW.answer AS BLOB)), 0) - ifnull(length(CAST(OLD.answer AS BLOB)), 0)
        + ifnull(length(CAST(NEW.error AS BLOB)), 0) - ifnull(length(CAST(OLD.error AS BLOB)), 0)
    WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER job_size_moved AFTER UPDATE OF state ON job
WHEN (NEW.state IN ('completed', 'failed', 'cancelled')) <> (OLD.state IN ('completed', 'failed', 'cancelled')) BEGIN
    UPDATE size SET ended = NEW.state IN ('completed', 'failed', 'cancelled') WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER job_size_removed AFTER DELETE ON job BEGIN
    DELETE FROM size WHERE job_id = OLD.job_id;
END;

CREATE TRIGGER subtask_sized AFTER INSERT ON subtask BEGIN
    UPDATE size
    SET bytes = bytes + length(CAST(NEW.description AS BLOB)) + ifnull(length(CAST(NEW.result AS BLOB)), 0)
        + ifnull(length(CAST(NEW.error AS BLOB)), 0)
    WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER subtask_resized AFTER UPDATE OF result, error ON subtask
WHEN NEW.result IS NOT OLD.result OR NEW.error IS NOT OLD.error BEGIN
    UPDATE size
    SET bytes = bytes
        + ifnull(length(CAST(NEW.result AS BLOB)), 0) - ifnull(length(CAST(OLD.result AS BLOB)), 0)
        + ifnull(length(CAST(NEW.error AS BLOB)), 0) - ifnull(length(CAST(OLD.error AS BLOB)), 0)
    WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER attempt_sized AFTER INSERT ON attempt
WHEN NEW.error IS NOT NULL OR NEW.late_result IS NOT NULL BEGIN
    UPDATE size
    SET bytes = bytes + ifnull(length(CAST(NEW.error AS BLOB)), 0) + ifnull(length(CAST(NEW.late_result AS BLOB)), 0)
    WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER attempt_resized AFTER UPDATE OF error, late_result ON attempt
WHEN NEW.error IS NOT OLD.error OR NEW.late_result IS NOT OLD.late_result BEGIN
    UPDATE size
    SET bytes = bytes
        + ifnull(length(CAST(NEW.error AS BLOB)), 0) - ifnull(length(CAST(OLD.error AS BLOB)), 0)
        + ifnull(length(CAST(NEW.late_result AS BLOB)), 0) - ifnull(length(CAST(OLD.late_result AS BLOB)), 0)
    WHERE job_id = NEW.job_id;
END;

CREATE TRIGGER approval_sized AFTER INSERT ON approval BEGIN
    UPDATE size SET bytes = bytes + length(CAST(NEW.arguments AS BLOB)) WHERE job_id = NEW.job_id;
END;
