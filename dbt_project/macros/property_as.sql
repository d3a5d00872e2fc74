{#
    A property of the event as a value of a type; null when it is missing, of another type in the
    JSON, or what SDKs send for nothing (`undefined`, `<null>`). The types are those of
    `property_dictionary`:

        string    text
        number    double precision; null what has more digits than fit
        boolean   boolean
        datetime  timestamp with time zone, of ISO texts; those without a zone are in UTC
        list      JSON
        object    JSON
#}
{% macro property_as(name, type, column='properties') -%}
    {%- set text = mixpanel.property(name, column) -%}
    {%- set json_type = mixpanel.property_json_type(name, column) -%}
    {%- if type == 'string' -%}
    case when {{ json_type }} in ('string', 'VARCHAR') and {{ text }} not in ('undefined', '<null>') then {{ text }} end
    {%- elif type == 'number' -%}
    cast(case when {{ json_type }} in ('number', 'UBIGINT', 'BIGINT', 'UHUGEINT', 'HUGEINT', 'DOUBLE') and {{ mixpanel.matches(text, '^-?[0-9]{1,200}([.][0-9]{1,200})?([eE][-+]?[0-9]{1,2})?$') }} then {{ text }} end as {{ mixpanel.type_double() }})
    {%- elif type == 'boolean' -%}
    cast(case when {{ json_type }} in ('boolean', 'BOOLEAN') then {{ text }} end as boolean)
    {%- elif type == 'datetime' -%}
    cast(case when {{ json_type }} in ('string', 'VARCHAR') and {{ mixpanel.is_iso_instant(text) }} then {{ text }} || case when {{ mixpanel.matches(text, '^.*(Z|[+-][0-9]{2}:?[0-9]{2})$') }} then '' else 'Z' end end as {{ mixpanel.type_instant() }})
    {%- elif type == 'list' -%}
    case when {{ json_type }} in ('array', 'ARRAY') then {{ mixpanel.property_json(name, column) }} end
    {%- elif type == 'object' -%}
    case when {{ json_type }} in ('object', 'OBJECT') then {{ mixpanel.property_json(name, column) }} end
    {%- else -%}
        {%- do exceptions.raise_compiler_error(
            "property_as takes string, number, boolean, datetime, list or object for a type, not " ~ type ~ " (of " ~ name ~ ")"
        ) -%}
    {%- endif -%}
{%- endmacro %}


{# A property of the event as JSON. #}
{% macro property_json(name, column='properties') -%}
    {{ adapter.dispatch('property_json', 'mixpanel')(name, column) }}
{%- endmacro %}


{% macro postgres__property_json(name, column) -%}
    ({{ column }} -> {{ mixpanel.text_literal(name) }})
{%- endmacro %}


{% macro duckdb__property_json(name, column) -%}
    json_extract({{ column }}, {{ mixpanel.text_literal(mixpanel.duckdb__pointer(name)) }})
{%- endmacro %}


{# What the database calls the type of its JSON; null when it is missing. #}
{% macro property_json_type(name, column='properties') -%}
    {{ adapter.dispatch('property_json_type', 'mixpanel')(name, column) }}
{%- endmacro %}


{% macro postgres__property_json_type(name, column) -%}
    json_typeof(cast({{ mixpanel.property_json(name, column) }} as json))
{%- endmacro %}


{% macro duckdb__property_json_type(name, column) -%}
    json_type({{ column }}, {{ mixpanel.text_literal(mixpanel.duckdb__pointer(name)) }})
{%- endmacro %}


{# Whether a text is an ISO date and time that exists, no finer than databases hold. #}
{% macro is_iso_instant(text) -%}
    (
        {{ mixpanel.matches(text, '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.][0-9]{1,6})?(Z|[+-](0[0-9]|1[0-4]):?[0-5][0-9])?$') }}
        and not {{ mixpanel.matches(text, '^([0-9]{4}-(02-3|0[469]-31|11-31)|0000).*$') }}
        {#- The 29th of February, of years that four does not divide, or a hundred and not 400. #}
        and not {{ mixpanel.matches(text, '^([0-9]{2}([02468][1235679]|[13579][01345789])|([02468][1235679]|[13579][01345789])00)-02-29.*$') }}
    )
{%- endmacro %}


{# What decides what `events` stores. #}
{% macro events_definition() -%}
    {%- set columns = [] -%}
    {%- for name, column in var('event_columns').items() -%}
        {%- do columns.append([name, column.get('property', name), column.get('type', 'string')]) -%}
    {%- endfor -%}
    {%- do return(subscriber_id().split() | join(' ') ~ columns) -%}
{%- endmacro %}
