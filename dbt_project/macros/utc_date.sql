{# The date of an instant in UTC, whatever time zone the session of whoever asks is in. #}
{% macro utc_date(instant) -%}
    {{ adapter.dispatch('utc_date', 'mixpanel')(instant) }}
{%- endmacro %}


{% macro default__utc_date(instant) -%}
    cast({{ instant }} at time zone 'UTC' as date)
{%- endmacro %}
