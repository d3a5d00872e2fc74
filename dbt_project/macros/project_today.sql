{#
    The day that reports end on, in the project's time zone: today, or the day that the variable
    `as_of` names, which makes a report of the past.
#}
{% macro project_today() -%}
    {%- if var('as_of', none) -%}
    cast({{ mixpanel.text_literal(var('as_of') | string) }} as date)
    {%- else -%}
    {{ mixpanel.project_date(dbt.current_timestamp()) }}
    {%- endif -%}
{%- endmacro %}
