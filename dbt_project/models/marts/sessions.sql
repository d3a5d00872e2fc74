{#
    By person and day, which a session never spans: so whoever asks for some days reads only those.
#}
{% set gap = seconds_between('previous_at', 'occurred_at') -%}
with

events as (

    select
        {{ project_date('occurred_at') }} as event_date,
        coalesce(identities.resolved_distinct_id, events.subscriber_id) as subscriber_id,
        events.occurred_at
    from {{ ref('stg_mixpanel__events').render() }} as events
    left join {{ ref('identity_map').render() }} as identities
        on events.subscriber_id = identities.distinct_id
    where events.subscriber_id is not null

),

gaps as (

    select
        subscriber_id,
        event_date,
        occurred_at,
        lag(occurred_at) over (partition by subscriber_id, event_date order by occurred_at) as previous_at
    from events
    where {{ is_wanted_subscriber('subscriber_id') }}

),

numbered as (

    select
        subscriber_id,
        event_date,
        occurred_at,
        sum(case when {{ gap }} < {{ var('session_minutes') }} * 60 then 0 else 1 end) over (
            partition by subscriber_id, event_date
            order by occurred_at
            rows unbounded preceding
        ) as session_number
    from gaps

)

select
    subscriber_id,
    event_date,
    cast(session_number as integer) as session_number,
    min(occurred_at) as started_at,
    max(occurred_at) as ended_at,
    cast({{ seconds_between('min(occurred_at)', 'max(occurred_at)') }} as {{ type_double() }}) as duration_seconds,
    count(*) as events
from numbered
group by subscriber_id, event_date, session_number
