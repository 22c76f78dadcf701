-- What each table costs: builds, seconds of building, and bytes stored, from the runs' records.
--
-- Read from Dagster's own database beside the tables. A build that found nothing new is a build too,
-- and takes no seconds. Costs of both lakes are apart by `origin`.
--
-- order: total_seconds desc nulls last, table_name
-- plot: bar x=table_name y=total_seconds
WITH builds AS (
    SELECT
        element_at(CAST(json_parse(e.asset_key) AS array(varchar)), -1) AS table_name,
        e.run_id,
        with_timezone(e.timestamp, 'UTC') AS at,
        CAST(
            json_extract(
                e.event,
                '$.dagster_event.event_specific_data.materialization.metadata_entries'
            ) AS array(json)
        ) AS entries
    FROM postgres.public.event_logs AS e
    WHERE
        e.dagster_event_type = 'ASSET_MATERIALIZATION'
        AND e.asset_key LIKE '["warehouse"%'
),

figures AS (
    SELECT
        b.table_name,
        b.run_id,
        b.at,
        CAST(
            json_extract_scalar(
                element_at(filter(b.entries, e -> json_extract_scalar(e, '$.label') = 'seconds'), 1),
                '$.entry_data.value'
            ) AS double
        ) AS seconds,
        CAST(
            json_extract_scalar(
                element_at(filter(b.entries, e -> json_extract_scalar(e, '$.label') = 'bytes'), 1),
                '$.entry_data.value'
            ) AS bigint
        ) AS bytes
    FROM builds AS b
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
    f.table_name, -- table in the schema warehouse
    coalesce(o.origin, 'unknown') AS origin, -- the lake: live, recorded, or unknown
    count(*) AS builds, -- materializations on record
    sum(f.seconds) AS total_seconds, -- seconds of building, all of them together
    max_by(f.seconds, f.at) AS last_seconds, -- seconds of the last one
    max_by(f.bytes, f.at) FILTER (WHERE f.bytes IS NOT NULL) AS bytes, -- size of the data files after the last one
    max(f.at) AS last_build_at -- when the last one was recorded, UTC
FROM figures AS f
LEFT JOIN origins AS o ON f.run_id = o.run_id
GROUP BY f.table_name, coalesce(o.origin, 'unknown')
