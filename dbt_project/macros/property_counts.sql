{#
    Which properties events have, of which types, and how many different values: a row per event,
    property and type, and one per bucket of its values.

    Values are put into 256 buckets by their hashes, and of each bucket the smallest hash is kept.
    How small those are tells how many values there were, to about 6 %; whatever came in whatever
    order, and however often, they are the same.
    (Lumbroso, An optimal cardinality estimation algorithm based on order statistics, 2010)
#}
{% macro property_counts(events, condition) -%}
    with

    counted_events as {{ not_materialized() }} (

        select
            event,
            occurred_at,
            properties
        from {{ events }}
        where {{ condition }} and {{ is_in_sample() }}

    ),

    typed_values as (

        select
            event,
            occurred_at,
            property,
            {{ type_of_value('json_type', 'value_text') }} as type,
            value_text,
            md5(coalesce(value_text, '')) as value_hash
        from (
            {{ expand_properties('counted_events') }}
        ) as expanded

    ),

    buckets as (

        select
            event,
            property,
            type,
            substr(value_hash, 1, 2) as bucket,
            count(*) as events,
            min(occurred_at) as first_seen_at,
            max(occurred_at) as last_seen_at,
            {{ smallest_hash('substr(value_hash, 3, 13)') }} as smallest_hash
        from typed_values
        group by event, property, type, substr(value_hash, 1, 2)

    ),

    counts as (

        select
            event,
            '' as property,
            'event' as type,
            '' as bucket,
            count(*) as events,
            min(occurred_at) as first_seen_at,
            max(occurred_at) as last_seen_at,
            cast(null as {{ dbt.type_string() }}) as smallest_hash
        from counted_events
        group by event
        union all
        select
            event,
            property,
            type,
            '' as bucket,
            cast(sum(events) as bigint) as events,
            min(first_seen_at) as first_seen_at,
            max(last_seen_at) as last_seen_at,
            cast(null as {{ dbt.type_string() }}) as smallest_hash
        from buckets
        group by event, property, type
        union all
        select
            event,
            property,
            type,
            bucket,
            0 as events,
            cast(null as {{ type_instant() }}) as first_seen_at,
            cast(null as {{ type_instant() }}) as last_seen_at,
            smallest_hash
        from buckets

    )

    select
        {#- Names may be longer than an index of PostgreSQL holds. #}
        md5(length(event) || event || length(property) || property || type || bucket) as count_key,
        event,
        property,
        type,
        bucket,
        events,
        first_seen_at,
        last_seen_at,
        smallest_hash
    from counts
{%- endmacro %}


{# What keeps a database from working a part of a query out once and keeping that, where it is more. #}
{% macro not_materialized() -%}
    {{ adapter.dispatch('not_materialized', 'mixpanel')() }}
{%- endmacro %}


{% macro default__not_materialized() -%}{%- endmacro %}


{# One process would write all payloads to disk, and read them there. #}
{% macro postgres__not_materialized() -%}not materialized{%- endmacro %}


{#
    Each property of each event: `event`, `occurred_at`, `property`, `json_type` as the database
    calls it, and `value_text`, null for JSON null.
#}
{% macro expand_properties(events) -%}
    {{ adapter.dispatch('expand_properties', 'mixpanel')(events) }}
{%- endmacro %}


{# `json_each` takes ten times as long. #}
{% macro duckdb__expand_properties(events) -%}
    select
        event,
        occurred_at,
        property,
        json_type(item) as json_type,
        item ->> '$' as value_text
    from (
        select
            event,
            occurred_at,
            unnest(json_keys(properties)) as property,
            unnest(json_extract(properties, '$.*')) as item
        from {{ events }}
    ) as items
{%- endmacro %}


{# Its texts are a column of the function: else they would be taken out of the JSON for each use. #}
{% macro postgres__expand_properties(events) -%}
    select
        events.event,
        events.occurred_at,
        item.key as property,
        json_typeof(item.value) as json_type,
        item.value_text
    from {{ events }} as events
    cross join lateral rows from (
        json_each(cast(events.properties as json)),
        json_each_text(cast(events.properties as json))
    ) as item (key, value, text_key, value_text)
{%- endmacro %}


{#
    What Mixpanel would call it: its exports have points in time as ISO texts. SDKs send `undefined`
    and `<null>` for nothing.
#}
{% macro type_of_value(json_type, text) -%}
    case
        when {{ json_type }} in ('null', 'NULL') or {{ text }} in ('undefined', '<null>') then 'null'
        when {{ json_type }} in ('string', 'VARCHAR') then
            case
                when {{ text }} like '____-__-__T__:__:__%' and {{ is_iso_instant(text) }} then 'datetime'
                else 'string'
            end
        when {{ json_type }} in ('boolean', 'BOOLEAN') then 'boolean'
        when {{ json_type }} in ('array', 'ARRAY') then 'list'
        when {{ json_type }} in ('object', 'OBJECT') then 'object'
        else 'number'
    end
{%- endmacro %}


{# Of these hexadecimal digits the smallest; an example comes along, that of the smallest hash. #}
{% macro smallest_hash(digits) -%}
    {{ adapter.dispatch('smallest_hash', 'mixpanel')(digits) }}
{%- endmacro %}


{% macro default__smallest_hash(digits) -%}
    min({{ in_binary_order(digits ~ " || " ~ example_of_value()) }})
{%- endmacro %}


{# Of what comes along with a hash: nothing, but where examples are asked for. #}
{% macro example_of_value() -%}
    {%- if var('dictionary_examples') -%}
    case when property in (
        {%- for name in var('dictionary_examples') -%}{{ text_literal(name) }}{{ ', ' if not loop.last }}{%- endfor -%}
    ) then left(coalesce(value_text, ''), 100) else '' end
    {%- else -%}
    ''
    {%- endif -%}
{%- endmacro %}


{# The same events whenever it is asked: keys are hashes. #}
{% macro is_in_sample() -%}
    {%- set share = var('dictionary_sample') | float -%}
    {%- if share < 1 -%}
    {{ in_binary_order('event_key') }} < {{ text_literal('%08x' % ((share * 4294967296) | int)) }}
    {%- else -%}
    true
    {%- endif -%}
{%- endmacro %}


{# What decides what is counted. #}
{% macro dictionary_definition() -%}
    {%- do return([1, var('dictionary_sample') | float, var('dictionary_examples')] | string) -%}
{%- endmacro %}


{# The texts of a group, by their places, with commas between. #}
{% macro joined_in_order(text, place) -%}
    {{ adapter.dispatch('joined_in_order', 'mixpanel')(text, place) }}
{%- endmacro %}


{% macro default__joined_in_order(text, place) -%}
    {{ dbt.listagg(text, "', '", 'order by ' ~ place) }}
{%- endmacro %}


{# Hexadecimal digits, at most 15, as a number. #}
{% macro hex_number(digits) -%}
    {{ adapter.dispatch('hex_number', 'mixpanel')(digits) }}
{%- endmacro %}


{% macro duckdb__hex_number(digits) -%}
    cast('0x' || {{ digits }} as bigint)
{%- endmacro %}


{% macro postgres__hex_number(digits) -%}
    cast(cast('x' || lpad({{ digits }}, 16, '0') as bit(64)) as bigint)
{%- endmacro %}
