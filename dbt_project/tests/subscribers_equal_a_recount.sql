-- Whoever counts the events of the counted loads anew, one metric at a time, gets what is stored:
-- the same subscribers, nobody missing on either side, with the same counts and times.
{{ config(tags=['full_scan']) }}

with

counted as (

    select load_id
    from {{ counted_loads(ref('subscribers')) }}
    where model = 'subscribers'

),

events as (

    select
        coalesce(identities.resolved_distinct_id, events.subscriber_id) as subscriber_id,
        events.event,
        events.properties,
        events.occurred_at
    from {{ ref('stg_mixpanel__events') }} as events
    inner join counted on events._dlt_load_id = counted.load_id
    left join {{ ref('identity_map') }} as identities on events.subscriber_id = identities.distinct_id
    where
        events.subscriber_id is not null
        and {{ is_wanted_subscriber('coalesce(identities.resolved_distinct_id, events.subscriber_id)') }}

),

{# A text contains what changes it when taken out. #}
recounted as (

    {% for name, metric in var('metrics').items() %}
    select
        subscriber_id,
        '{{ name }}' as metric,
        cast({{ 'true' if metric_is_flag(metric) else 'count(*)' }} as {{ dbt.type_string() }}) as amount
    from events
    where
        true
        {% for key, part in metric.get('where', {}).items() -%}
        {% set text = 'lower(' ~ property(key) ~ ')' -%}
        and {{ text }} <> replace({{ text }}, lower({{ text_literal(part | string) }}), '')
        {% endfor -%}
        {% for key, part in metric.get('unless', {}).items() -%}
        {% set text = 'lower(' ~ property(key) ~ ')' -%}
        and {{ text }} is not distinct from replace({{ text }}, lower({{ text_literal(part | string) }}), '')
        {% endfor -%}
        and event = {{ text_literal(metric.event) }}
    group by subscriber_id
    union all
    {% endfor %}

    {% for name, aggregate in [
        ('events_processed', 'count(*)'), ('first_event_at', 'min(occurred_at)'), ('last_event_at', 'max(occurred_at)')
    ] %}
    {{ 'union all' if not loop.first }}
    select
        subscriber_id,
        '{{ name }}' as metric,
        cast({{ aggregate }} as {{ dbt.type_string() }}) as amount
    from events
    where
        {{ 'false' if var('metrics') else 'true' }}
        {% for metric in var('metrics').values() -%}
        or event = {{ text_literal(metric.event) }}
        {% endfor -%}
    group by subscriber_id
    {% endfor %}

),

stored as (

    {% for name, metric in var('metrics').items() %}
    select
        subscriber_id,
        '{{ name }}' as metric,
        cast({{ adapter.quote(name) }} as {{ dbt.type_string() }}) as amount
    from {{ ref('subscribers') }}
    where {{ adapter.quote(name) ~ (' = true' if metric_is_flag(metric) else ' <> 0') }}
    union all
    {% endfor %}

    {% for name in ['events_processed', 'first_event_at', 'last_event_at'] %}
    {{ 'union all' if not loop.first }}
    select
        subscriber_id,
        '{{ name }}' as metric,
        cast({{ name }} as {{ dbt.type_string() }}) as amount
    from {{ ref('subscribers') }}
    {% endfor %}

)

select
    coalesce(recounted.subscriber_id, stored.subscriber_id) as subscriber_id,
    coalesce(recounted.metric, stored.metric) as metric,
    recounted.amount as recounted_amount,
    stored.amount as stored_amount
from recounted
full outer join stored
    on recounted.subscriber_id = stored.subscriber_id and recounted.metric = stored.metric
where recounted.amount is distinct from stored.amount
