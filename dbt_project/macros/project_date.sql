{# The date of an instant in the time zone of the project, which the raw dataset was loaded with. #}
{% macro project_date(instant) -%}
    {{ adapter.dispatch('local_date', 'mixpanel')(instant, mixpanel.project_timezone()) }}
{%- endmacro %}


{% macro default__local_date(instant, timezone) -%}
    cast({{ instant }} at time zone {{ timezone }} as date)
{%- endmacro %}


{# As a literal, so that nobody looks it up for every event. #}
{% macro project_timezone() -%}
    {%- set found = [] -%}
    {%- set dataset = load_relation(source('mixpanel', 'dataset')) if execute -%}
    {%- if dataset -%}
        {%- set found = run_query("select timezone from " ~ dataset).columns[0].values() -%}
    {%- endif -%}
    {{ mixpanel.text_literal(found[0] or 'UTC' if found else 'UTC') }}
{%- endmacro %}
