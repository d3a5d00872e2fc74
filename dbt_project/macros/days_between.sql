{# How many days lie between two dates; negative when the first is the later one. #}
{% macro days_between(earlier, later) -%}
    {{ adapter.dispatch('days_between', 'mixpanel')(earlier, later) }}
{%- endmacro %}


{% macro default__days_between(earlier, later) -%}
    ({{ later }} - {{ earlier }})
{%- endmacro %}


{#
    A query for every date from one to another, as `event_date`; for none if there is no first one.

    `first`: a query for the first date.
    `last`: the last date.
#}
{% macro every_day(first, last) -%}
    {{ adapter.dispatch('every_day', 'mixpanel')(first, last) }}
{%- endmacro %}


{% macro default__every_day(first, last) -%}
    with recursive days as (
        select ({{ first }}) as event_date
        union all
        select event_date + 1 as event_date
        from days
        where event_date < {{ last }}
    )

    select event_date
    from days
    where event_date is not null
{%- endmacro %}
