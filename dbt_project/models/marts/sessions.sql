{#
    By person and day, which a session never spans: so whoever asks for some days reads only those.
    Only the first and the last event of each session are looked at twice.
#}
{% set gap = var('session_minutes') * 60 -%}
{% set is_first = "coalesce(" ~ seconds_between('previous_at', 'occurred_at') ~ " >= " ~ gap ~ ", true)" -%}
{% set is_last = "coalesce(" ~ seconds_between('occurred_at', 'next_at') ~ " >= " ~ gap ~ ", true)" -%}
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

neighbours as (

    select
        subscriber_id,
        event_date,
        occurred_at,
        row_number() over (partition by subscriber_id, event_date order by occurred_at) as place,
        lag(occurred_at) over (partition by subscriber_id, event_date order by occurred_at) as previous_at,
        lead(occurred_at) over (partition by subscriber_id, event_date order by occurred_at) as next_at
    from events
    where {{ is_wanted_subscriber('subscriber_id') }}

),

ends as (

    select
        subscriber_id,
        event_date,
        occurred_at,
        place,
        {{ is_first }} as is_first,
        {{ is_last }} as is_last
    from neighbours
    where
        {{ is_first }}
        or {{ is_last }}

),

sessions as (

    select
        subscriber_id,
        event_date,
        is_first,
        occurred_at as started_at,
        sum(case when is_first then 1 else 0 end) over (
            partition by subscriber_id, event_date
            order by occurred_at, place
            rows unbounded preceding
        ) as session_number,
        case
            when is_last then occurred_at
            else lead(occurred_at) over (partition by subscriber_id, event_date order by occurred_at, place)
        end as ended_at,
        case
            when is_last then 1
            else lead(place) over (partition by subscriber_id, event_date order by occurred_at, place) - place + 1
        end as events
    from ends

)

select
    subscriber_id,
    event_date,
    cast(session_number as integer) as session_number,
    started_at,
    ended_at,
    cast({{ seconds_between('started_at', 'ended_at') }} as {{ type_double() }}) as duration_seconds,
    cast(events as bigint) as events
from sessions
where is_first
