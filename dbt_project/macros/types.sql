{# The type of numbers with a fraction. dbt's own `type_float` has seven digits on DuckDB. #}
{% macro type_double() -%}
    {{ adapter.dispatch('type_double', 'mixpanel')() }}
{%- endmacro %}


{% macro default__type_double() -%}
    double precision
{%- endmacro %}


{# The type of points in time, whose zone is known. #}
{% macro type_instant() -%}
    {{ adapter.dispatch('type_instant', 'mixpanel')() }}
{%- endmacro %}


{% macro default__type_instant() -%}
    timestamp with time zone
{%- endmacro %}
