{# Whether any metric uses the event. #}
{% macro is_tracked_event() -%}
    event in (
        {#- `unique` folds case unless told not to, and Mixpanel's names differ by case. #}
        {%- for event in var('metrics').values() | map(attribute='event') | unique(case_sensitive=true) %}
        {{ text_literal(event) }}{{ ',' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}


{#
    One column per declared metric, in the order of their declaration. Not `count(*) filter (…)`:
    there DuckDB reads the properties of every event, in a `case` only of those it is about.
#}
{% macro metric_columns() -%}
    {%- for name, metric in var('metrics').items() -%}
    count(
        case when {{ metric_condition(name, metric) }} then 1 end
    ){{ ' > 0' if metric_is_flag(metric) }} as {{ name }}{{ ',\n    ' if not loop.last }}
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
    {%- for property_name, text in metric.get('where', {}).items() %} and {{ property_contains(property_name, text) }}
    {%- endfor %}
    {%- for property_name, text in metric.get('unless', {}).items() %} and not {{ property_contains(property_name, text) }}
    {%- endfor %}
{%- endmacro %}


{% macro property_contains(name, text) -%}
    {{ dbt.position(text_literal(text | string | lower), "lower(coalesce(" ~ property(name) ~ ", ''))") | trim }} > 0
{%- endmacro %}
