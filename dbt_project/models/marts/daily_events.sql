with

days_of_people as (

    select
        {{ project_date('events.occurred_at') }} as event_date,
        events.event,
        coalesce(identities.resolved_distinct_id, events.subscriber_id) as subscriber_id,
        count(*) as events
    from {{ ref('stg_mixpanel__events').render() }} as events
    left join {{ ref('identity_map').render() }} as identities
        on events.subscriber_id = identities.distinct_id
    group by 1, 2, 3

),

days_since_the_first as (

    select
        event_date,
        event,
        events,
        coalesce({{ is_wanted_subscriber('subscriber_id') }}, false) and subscriber_id is not null as is_subscriber,
        event_date = min(event_date) over (partition by event, subscriber_id) as is_first_day
    from days_of_people

)

select
    event_date,
    event,
    cast(sum(events) as bigint) as events,
    count(case when is_subscriber then 1 end) as subscribers,
    count(case when is_subscriber and is_first_day then 1 end) as new_subscribers
from days_since_the_first
where event_date <= {{ project_today() }}
group by 1, 2
