{# A property of the event as text, null when it is missing or JSON null. Any name will do. #}
{% macro property(name, column='properties') -%}
    {{ adapter.dispatch('property')(name, column) }}
{%- endmacro %}


{% macro postgres__property(name, column) -%}
    ({{ column }} ->> {{ text_literal(name) }})
{%- endmacro %}


{# DuckDB takes the right side of ->> for a JSONPath when it begins with $ and treats * as a wildcard
   even in quotes; a JSON Pointer has no special characters but the two escaped here. #}
{% macro duckdb__property(name, column) -%}
    json_extract_string({{ column }}, {{ text_literal('/' ~ name | replace('~', '~0') | replace('/', '~1')) }})
{%- endmacro %}


{% macro text_literal(text) -%}
    {{ dbt.string_literal(dbt.escape_single_quotes(text)) }}
{%- endmacro %}
