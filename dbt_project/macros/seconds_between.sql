{# How many seconds lie between two instants, with their fraction; negative when the first is the later one. #}
{% macro seconds_between(earlier, later) -%}
    {{ adapter.dispatch('seconds_between', 'mixpanel')(earlier, later) }}
{%- endmacro %}


{% macro default__seconds_between(earlier, later) -%}
    cast(extract(epoch from {{ later }}) - extract(epoch from {{ earlier }}) as {{ mixpanel.type_double() }})
{%- endmacro %}
