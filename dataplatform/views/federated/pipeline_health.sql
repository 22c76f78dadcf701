-- Runs of the platform a day and lake: how many succeeded and failed, and how long they took.
--
-- Read from Dagster's own database. A day is that of a run's start, UTC; runs that are still queued or
-- under way have no end and count as neither. Durations are of the runs that succeeded.
--
-- order: day desc, origin
-- plot: line x=day y=succeeded,failed
WITH runs AS (
    SELECT
        r.run_id,
        r.status,
        CAST(from_unixtime(r.start_time) AS date) AS day,
        r.end_time - r.start_time AS seconds
    FROM postgres.public.runs AS r
    WHERE r.start_time IS NOT NULL
),

origins AS (
    SELECT
        t.run_id,
        max(t.value) AS origin
    FROM postgres.public.run_tags AS t
    WHERE t.key = 'dataplatform/origin'
    GROUP BY t.run_id
)

SELECT
    r.day, -- day of the start, UTC
    coalesce(o.origin, 'unknown') AS origin, -- the lake that the runs worked on: live, recorded, or unknown, such as of a rotation, which works on none
    count(*) AS runs, -- all that started
    count_if(r.status = 'SUCCESS') AS succeeded, -- ended well
    count_if(r.status = 'FAILURE') AS failed, -- ended with an error
    count_if(r.status = 'CANCELED') AS cancelled, -- ended by a person
    approx_percentile(r.seconds, 5e-1) FILTER (WHERE r.status = 'SUCCESS') AS median_seconds, -- half of those that succeeded took longer
    approx_percentile(r.seconds, 9.5e-1) FILTER (WHERE r.status = 'SUCCESS') AS p95_seconds -- one in twenty took longer
FROM runs AS r
LEFT JOIN origins AS o ON r.run_id = o.run_id
GROUP BY r.day, coalesce(o.origin, 'unknown')
