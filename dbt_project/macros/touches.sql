{#
    Of the events for which `condition` is true those that say where their visit came from: by a
    campaign's link or another site, as SDKs tell it.
    https://docs.mixpanel.com/docs/tracking-methods/sdks/javascript#track-utm-tags
#}
{% macro touches(events, condition) -%}
    with

    told as (

        select
            event_key,
            subscriber_id,
            occurred_at,
            event
            {%- for column, name in touch_columns().items() %},
            {{ property_as(name, 'string') }} as {{ column }}
            {%- endfor %}
        from {{ events }}
        where
            {{ condition }}
            and subscriber_id is not null
            {#- Few events have one: most others are told from them without taking them apart. #}
            and (
                {%- for name in ['"utm_', '"$referring_domain"'] %}
                {{ dbt.position(text_literal(name), 'cast(properties as ' ~ dbt.type_string() ~ ')') }} > 0{{ ' or' if not loop.last }}
                {%- endfor %}
            )

    )

    select told.*
    from told
    where
        -- What SDKs send of somebody who typed the address.
        referring_domain <> '$direct'
        {%- for column in touch_columns() if column != 'referring_domain' %}
        or {{ column }} <> ''
        {%- endfor %}
{%- endmacro %}


{# The columns of a touch, and the properties that they come from. #}
{% macro touch_columns() -%}
    {%- do return({
        'utm_source': 'utm_source',
        'utm_medium': 'utm_medium',
        'utm_campaign': 'utm_campaign',
        'utm_content': 'utm_content',
        'utm_term': 'utm_term',
        'referring_domain': '$referring_domain',
    }) -%}
{%- endmacro %}


{# What decides what is kept. #}
{% macro touches_definition() -%}
    {%- do return([1, subscriber_id().split() | join(' ')] | string) -%}
{%- endmacro %}


{# Each person's first touch, or their last one: `order` is `asc` or `desc`. #}
{% macro touches_of_people(order) -%}
    with

    of_people as (

        select
            touches.*,
            coalesce(identities.resolved_distinct_id, touches.subscriber_id) as person
        from {{ ref('touches').render() }} as touches
        left join {{ ref('identity_map').render() }} as identities
            on touches.subscriber_id = identities.distinct_id

    ),

    ranked as (

        select
            of_people.*,
            row_number() over (
                partition by person
                order by occurred_at {{ order }}, {{ in_binary_order('event_key') }} {{ order }}
            ) as place
        from of_people
        where {{ is_wanted_subscriber('person') }}

    )

    select
        person as subscriber_id,
        occurred_at as touched_at,
        event,
        event_key
        {%- for column in touch_columns() %},
        {{ column }}
        {%- endfor %}
    from ranked
    where place = 1
{%- endmacro %}
