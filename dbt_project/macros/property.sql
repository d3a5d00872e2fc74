{#
    A property of the event as text, null when it is missing or JSON null. Any name will do.

    Models of users' own call it as well, and find what it calls by the package's name alone.
#}
{% macro property(name, column='properties') -%}
    {{ adapter.dispatch('property', 'mixpanel')(name, column) }}
{%- endmacro %}


{% macro postgres__property(name, column) -%}
    ({{ column }} ->> {{ mixpanel.text_literal(name) }})
{%- endmacro %}


{# DuckDB takes the right side of ->> for a JSONPath when it begins with $ and treats * as a wildcard
   even in quotes; a JSON Pointer has no special characters but the two escaped here. #}
{% macro duckdb__property(name, column) -%}
    json_extract_string({{ column }}, {{ mixpanel.text_literal(mixpanel.duckdb__pointer(name)) }})
{%- endmacro %}


{# The item at a place, from 0 on, of a property that is a list; null where there is none. #}
{% macro property_item(name, place, column='properties') -%}
    {{ adapter.dispatch('property_item', 'mixpanel')(name, place, column) }}
{%- endmacro %}


{% macro postgres__property_item(name, place, column) -%}
    ({{ column }} -> {{ mixpanel.text_literal(name) }} ->> {{ place }})
{%- endmacro %}


{% macro duckdb__property_item(name, place, column) -%}
    json_extract_string({{ column }}, {{ mixpanel.text_literal(mixpanel.duckdb__pointer(name) ~ '/' ~ place) }})
{%- endmacro %}


{% macro duckdb__pointer(name) -%}
    {%- do return('/' ~ name | replace('~', '~0') | replace('/', '~1')) -%}
{%- endmacro %}


{#
    The text as it is. Do not indent or trim SQL that holds it: `indent` breaks lines anew, inside
    of literals too.
#}
{% macro text_literal(text) -%}
    {{ adapter.dispatch('text_literal', 'mixpanel')(text) }}
{%- endmacro %}


{% macro default__text_literal(text) -%}
    {{ dbt.string_literal(dbt.escape_single_quotes(text)) }}
{%- endmacro %}


{# No text of PostgreSQL holds NUL: the events have the replacement character in its place. #}
{% macro postgres__text_literal(text) -%}
    {{ mixpanel.default__text_literal(text | replace('\0', '\ufffd')) }}
{%- endmacro %}


{# A statement of DuckDB ends at NUL, a text of it does not. #}
{% macro duckdb__text_literal(text) -%}
    {%- set parts = [] -%}
    {%- for part in text.split('\0') -%}
        {%- do parts.append(mixpanel.default__text_literal(part)) -%}
    {%- endfor -%}
    {{ parts[0] if parts | length == 1 else '(' ~ parts | join(' || chr(0) || ') ~ ')' }}
{%- endmacro %}


{# Whether a text, from its beginning to its end, is as a pattern says. #}
{% macro matches(text, pattern) -%}
    {{ adapter.dispatch('matches', 'mixpanel')(text, pattern) }}
{%- endmacro %}


{% macro default__matches(text, pattern) -%}
    {{ text }} ~ {{ mixpanel.text_literal(pattern) }}
{%- endmacro %}
