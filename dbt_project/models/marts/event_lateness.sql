{# .render(): a run with --empty must not leave behind a view that hides the events from the next. #}
with

delays as (

    select
        {{ utc_date('occurred_at') }} as event_date,
        -- A device whose clock is ahead sends events from the future: they are not late.
        greatest({{ seconds_between('occurred_at', 'processed_at') }}, 0) / 3600 as hours
    from {{ ref('stg_mixpanel__events').render() }}
    where processed_at is not null

)

select
    event_date,
    count(*) as events,
    count(*) filter (where hours > {{ var('late_after_hours') }}) as late_events,
    percentile_cont(0.5) within group (order by hours) as p50_hours,
    percentile_cont(0.9) within group (order by hours) as p90_hours,
    percentile_cont(0.99) within group (order by hours) as p99_hours,
    percentile_cont(0.999) within group (order by hours) as p999_hours,
    max(hours) as max_hours
from delays
group by event_date
