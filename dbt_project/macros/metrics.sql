{# The names of the events that any metric uses. #}
{% macro tracked_events() -%}
    {# `unique` folds case unless told not to, and Mixpanel's names differ by case. #}
    {% do return(var('metrics').values() | map(attribute='event') | unique(case_sensitive=true) | list) %}
{%- endmacro %}


{# One column per declared metric, in the order of their declaration. #}
{% macro metric_columns() -%}
    {%- for name, metric in var('metrics').items() %}
    count(*) filter (
        where {{ metric_condition(name, metric) }}
    ){{ ' > 0' if metric_is_flag(metric) }} as {{ name }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}


{% macro metric_is_flag(metric) -%}
    {% do return(metric.get('kind', 'count') == 'flag') %}
{%- endmacro %}


{% macro metric_condition(name, metric) -%}
    {%- set unknown = metric.keys() | reject('in', ['event', 'where', 'unless', 'kind']) | list -%}
    {%- if 'event' not in metric or unknown or metric.get('kind', 'count') not in ['count', 'flag'] -%}
        {%- do exceptions.raise_compiler_error(
            "The metric " ~ name ~ " is declared as " ~ metric ~ ": it takes `event`, and may take "
            ~ "`where` and `unless` (property: text) and `kind` (count or flag)."
        ) -%}
    {%- endif -%}
    event = {{ text_literal(metric.event) }}
    {%- for property_name, text in metric.get('where', {}).items() %}
        and {{ property_contains(property_name, text) }}
    {%- endfor %}
    {%- for property_name, text in metric.get('unless', {}).items() %}
        and not {{ property_contains(property_name, text) }}
    {%- endfor %}
{%- endmacro %}


{% macro property_contains(name, text) -%}
    {{ dbt.position(text_literal(text | lower), "lower(coalesce(" ~ property(name) ~ ", ''))") }} > 0
{%- endmacro %}
