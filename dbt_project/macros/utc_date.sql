{# The date of an instant in UTC, whatever time zone the session of whoever asks is in. #}
{% macro utc_date(instant) -%}
    {{ adapter.dispatch('utc_date', 'mixpanel')(instant) }}
{%- endmacro %}


{% macro default__utc_date(instant) -%}
    cast({{ instant }} at time zone 'UTC' as date)
{%- endmacro %}


{# The instant at which a day begins in UTC. #}
{% macro utc_midnight(day) -%}
    {{ adapter.dispatch('utc_midnight', 'mixpanel')(day) }}
{%- endmacro %}


{% macro default__utc_midnight(day) -%}
    cast({{ day }} as timestamp) at time zone 'UTC'
{%- endmacro %}
