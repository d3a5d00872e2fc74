{#
    Whoever was active on a day stays in a trailing window for its length and leaves it then, unless
    active again: so the windows' numbers are sums of who comes and who leaves, in one pass.
#}
with

active as (

    select
        event_date,
        lag(event_date) over (partition by subscriber_id order by event_date) as previous_date,
        lead(event_date) over (partition by subscriber_id order by event_date) as next_date
    from {{ ref('active_days').render() }}

),

changes as (

    select
        event_date,
        count(*) as active,
        count(*) - count(previous_date) as first_time,
        count(case when previous_date >= event_date - 28 then 1 end) as returning_,
        count(case when previous_date < event_date - 28 then 1 end) as resurrected,
        0 as churned,
        count(case when coalesce(previous_date < event_date - 7, true) then 1 end) as into_7_days,
        count(case when coalesce(previous_date < event_date - 28, true) then 1 end) as into_28_days
    from active
    group by event_date
    union all
    select
        event_date + 7 as event_date,
        0 as active,
        0 as first_time,
        0 as returning_,
        0 as resurrected,
        0 as churned,
        -count(*) as into_7_days,
        0 as into_28_days
    from active
    where coalesce(next_date > event_date + 7, true)
    group by event_date
    union all
    select
        event_date + 28 as event_date,
        0 as active,
        0 as first_time,
        0 as returning_,
        0 as resurrected,
        count(*) as churned,
        0 as into_7_days,
        -count(*) as into_28_days
    from active
    where coalesce(next_date > event_date + 28, true)
    group by event_date

),

days as (

    {{ every_day('select min(event_date) from active', project_today()) }}

),

totals as (

    select
        days.event_date,
        coalesce(sum(changes.active), 0) as active,
        coalesce(sum(changes.first_time), 0) as first_time,
        coalesce(sum(changes.returning_), 0) as returning_,
        coalesce(sum(changes.resurrected), 0) as resurrected,
        coalesce(sum(changes.churned), 0) as churned,
        coalesce(sum(changes.into_7_days), 0) as into_7_days,
        coalesce(sum(changes.into_28_days), 0) as into_28_days
    from days
    left join changes
        on days.event_date = changes.event_date
    group by days.event_date

)

select
    event_date,
    cast(active as bigint) as active_subscribers,
    cast(first_time as bigint) as new_subscribers,
    cast(returning_ as bigint) as returning_subscribers,
    cast(resurrected as bigint) as resurrected_subscribers,
    cast(churned as bigint) as churned_subscribers,
    cast(sum(into_7_days) over (order by event_date) as bigint) as active_7_days,
    cast(sum(into_28_days) over (order by event_date) as bigint) as active_28_days
from totals
