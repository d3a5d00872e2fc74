{# .render(): a run with --empty must not leave behind a view that hides the runs from the next. #}
with

runs as (

    select
        *,
        cast(events_new as {{ type_double() }}) as events_loaded,
        {{ seconds_between('started_at', 'finished_at') }} as run_seconds,
        {{ seconds_between('started_at', dbt.current_timestamp()) }} / 86400 as days_ago,
        status = 'ok' and to_date is not null and mode in ('first', 'incremental', 'full_refresh') as is_sync,
        row_number() over (
            partition by destination
            order by started_at desc, id desc
        ) as recency,
        row_number() over (
            partition by destination, status = 'running'
            order by started_at desc, id desc
        ) as recency_of_outcome,
        row_number() over (
            partition by destination, watermark_after is null
            order by started_at desc, id desc
        ) as recency_of_watermark
    from {{ source('mixpanel', 'sync_runs').render() }}

),

summarised as (

    select
        destination,
        max(status) filter (where recency = 1) as last_status,
        max(error) filter (where status <> 'running' and recency_of_outcome = 1) as last_error,
        count(*) filter (where days_ago <= 7) as runs_last_7_days,
        count(*) filter (where days_ago <= 7 and status = 'failed') as failed_runs_last_7_days,
        count(*) filter (where days_ago <= 7 and finished_at is null) as unfinished_runs_last_7_days,
        avg(events_loaded) filter (where days_ago <= 7 and status = 'ok') as events_per_run,
        avg(run_seconds) filter (where days_ago <= 7 and status = 'ok') as seconds_per_run,
        avg(run_seconds) filter (
            where days_ago > 7 and days_ago <= 14 and status = 'ok'
        ) as seconds_per_run_before,
        max(finished_at) filter (where status = 'ok') as last_success_at,
        max(finished_at) filter (where is_sync) as last_sync_at,
        -- Up to where the last of them could find events: no day that it did not ask for.
        max(least(finished_at, {{ utc_midnight('to_date + 1') }})) filter (where is_sync) as reached,
        max(started_at) as last_run_at,
        -- Not the greatest: a full refresh may set the watermark back.
        max(watermark_after) filter (where recency_of_watermark = 1) as watermark
    from runs
    group by destination

)

select
    -- ids
    destination,

    -- strings
    last_status,
    last_error,

    -- numbers
    runs_last_7_days,
    failed_runs_last_7_days,
    unfinished_runs_last_7_days,
    events_per_run,
    seconds_per_run,
    seconds_per_run_before,
    seconds_per_run / nullif(seconds_per_run_before, 0) as duration_trend,
    {{ seconds_between('watermark', dbt.current_timestamp()) }} / 3600 as watermark_lag_hours,
    greatest({{ seconds_between('watermark', 'reached') }} / 3600, 0) as quiet_hours,

    -- timestamps
    last_success_at,
    last_sync_at,
    last_run_at,
    watermark

from summarised
