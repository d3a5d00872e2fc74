{#
    Of each person the event that says where they came from, the first or the last one of those. Which
    do: whatever SDKs send of a visit that a campaign or another site led to.
    https://docs.mixpanel.com/docs/tracking-methods/sdks/javascript#track-utm-tags

    `order`: `asc` or `desc`.
#}
{% macro touches(order) -%}
    {%- set columns = {
        'utm_source': 'utm_source',
        'utm_medium': 'utm_medium',
        'utm_campaign': 'utm_campaign',
        'utm_content': 'utm_content',
        'utm_term': 'utm_term',
        'referring_domain': '$referring_domain',
    } -%}
    with

    told as (

        select
            coalesce(identities.resolved_distinct_id, events.subscriber_id) as subscriber_id,
            events.occurred_at,
            events.event,
            events.event_key,
            {%- for column, name in columns.items() %}
            {{ property_as(name, 'string', 'events.properties') }} as {{ column }}{{ ',' if not loop.last }}
            {%- endfor %}
        from {{ ref('stg_mixpanel__events').render() }} as events
        left join {{ ref('identity_map').render() }} as identities
            on events.subscriber_id = identities.distinct_id
        where
            events.subscriber_id is not null
            {#- Few events have one: the others are told from them without taking them apart. #}
            and {{ may_have_property(columns.values() | list, 'events.properties') }}

    ),

    ranked as (

        select
            told.*,
            row_number() over (
                partition by subscriber_id
                order by occurred_at {{ order }}, {{ in_binary_order('event_key') }} {{ order }}
            ) as place
        from told
        where
            {{ is_wanted_subscriber('subscriber_id') }}
            -- What SDKs send of somebody who typed the address.
            and (
                referring_domain <> '$direct'
                {%- for column in columns if column != 'referring_domain' %}
                or {{ column }} <> ''
                {%- endfor %}
            )

    )

    select
        subscriber_id,
        occurred_at as touched_at,
        event,
        event_key,
        {%- for column in columns %}
        {{ column }}{{ ',' if not loop.last }}
        {%- endfor %}
    from ranked
    where place = 1
{%- endmacro %}


{# False only of events that have none of the properties; true of a few more. #}
{% macro may_have_property(names, column='properties') -%}
    (
        {%- for name in names %}
        cast({{ column }} as {{ dbt.type_string() }}) like {{ mixpanel.text_literal('%"' ~ name ~ '"%') }}{{ ' or' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}
