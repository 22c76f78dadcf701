-- The last materialization of each asset beside what its table holds now: when, by which run, rows.
--
-- Dagster's own database, which keeps one last materialization an asset for both lakes (`origin` says
-- which it was for), joined with this lake's tables. Assets never materialized are not in it.
--
-- order: materialized_at desc, asset
WITH materializations AS (
    SELECT
        a.asset_key,
        a.last_run_id,
        json_extract_scalar(a.last_materialization, '$.event_log_entry.timestamp') AS at,
        CAST(
            json_extract(
                a.last_materialization,
                '$.event_log_entry.dagster_event.event_specific_data.materialization.metadata_entries'
            ) AS array(json)
        ) AS entries
    FROM postgres.public.asset_keys AS a
    WHERE a.last_materialization IS NOT NULL
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
    array_join(CAST(json_parse(m.asset_key) AS array(varchar)), '/') AS asset, -- key of the asset
    CAST(from_unixtime(CAST(m.at AS double)) AS timestamp(6) with time zone) AS materialized_at, -- when, UTC
    CAST(
        json_extract_scalar(
            element_at(
                filter(m.entries, e -> json_extract_scalar(e, '$.label') = 'dagster/row_count'), 1
            ),
            '$.entry_data.value'
        ) AS bigint
    ) AS row_count, -- rows then, where the asset counts them
    d.row_count AS rows_now, -- rows that this lake's table holds now; null for what is no table
    d.newest_day, -- day of the newest data in it, UTC
    coalesce(o.origin, 'unknown') AS origin, -- the lake that it was for: live, recorded, or unknown
    m.last_run_id AS run_id -- the run that did it
FROM materializations AS m
LEFT JOIN origins AS o ON m.last_run_id = o.run_id
LEFT JOIN analytics.data_freshness AS d
    ON m.asset_key = concat('["warehouse", "', d.table_name, '"]')
