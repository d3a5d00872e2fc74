{#
    How many people did some events in this order, each within so many days of the first: a query, a
    row per step.

        select * from ({{ mixpanel.funnel(['Signed Up', 'Purchase Completed'], within_days=7) }}) as steps

    A person comes to a step if any of their events make a way there; the latest possible first event
    makes the shortest one, and is handed on from step to step. Events of one second are taken in
    the order of the steps.

    Args:
        steps: the names of the events; one may stand there more than once.
        within_days: how many days the whole way may take, fractions too.
        from_date, to_date: the days, in the project's time zone, on which the first event happened.
#}
{% macro funnel(steps, within_days=30, from_date=none, to_date=none) -%}
    {%- set events = ref('mixpanel', 'stg_mixpanel__events') -%}
    {%- set identities = ref('mixpanel', 'identity_map') -%}
    {%- set person = 'coalesce(identities.resolved_distinct_id, events.subscriber_id)' -%}
    {%- set day = mixpanel.project_date('occurred_at') -%}
with

step_0 as (

    select
        {{ person }} as subscriber_id,
        events.event,
        events.occurred_at,
        events.event_key,
        case events.event
            {%- for step in steps | unique(case_sensitive=true) %}
            when {{ mixpanel.text_literal(step) }} then {{ loop.index }}
            {%- endfor %}
        end as position
    from {{ events.render() }} as events
    left join {{ identities.render() }} as identities
        on events.subscriber_id = identities.distinct_id
    where
        events.subscriber_id is not null
        and events.event in (
            {%- for step in steps | unique(case_sensitive=true) %}
            {{ mixpanel.text_literal(step) }}{{ ',' if not loop.last }}
            {%- endfor %}
        )
        and {{ mixpanel.is_wanted_subscriber(person) }}

)

{%- for step in steps %},

step_{{ loop.index }} as (

    select
        subscriber_id,
        event,
        occurred_at,
        event_key,
        position,
        {%- if loop.first %}
        case
            when
                event = {{ mixpanel.text_literal(step) }}
                {%- if from_date %}
                and {{ day }} >= cast({{ mixpanel.text_literal(from_date | string) }} as date)
                {%- endif %}
                {%- if to_date %}
                and {{ day }} <= cast({{ mixpanel.text_literal(to_date | string) }} as date)
                {%- endif %}
                then occurred_at
        end as began_at
        {%- else %}
        case
            when
                event = {{ mixpanel.text_literal(step) }}
                and {{ mixpanel.seconds_between('before', 'occurred_at') }} <= {{ within_days }} * 86400.0
                then before
        end as began_at
        {%- endif %}
    from {% if loop.first %}step_0{% else %}(
        select
            *,
            max(began_at) over (
                partition by subscriber_id
                order by occurred_at, position, event_key
                rows between unbounded preceding and 1 preceding
            ) as before
        from step_{{ loop.index0 }}
    ) as earlier{% endif %}

)
{%- endfor %}
{% for step in steps %}
select
    {{ loop.index }} as step,
    {{ mixpanel.text_literal(step) }} as event,
    count(distinct subscriber_id) as subscribers
from step_{{ loop.index }}
where began_at is not null
{{ 'union all' if not loop.last }}
{%- endfor %}
{%- endmacro %}
