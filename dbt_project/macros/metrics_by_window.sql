{#
    What subscribers did in the last days, by person.

    `days`, `identities`: the relations `subscriber_days` and `identity_map`.
    `names`: which of the declared metrics.
#}
{% macro metrics_by_window(days, identities, names) -%}
    {%- set person = 'coalesce(identities.resolved_distinct_id, days.subscriber_id)' -%}
    select
        {{ person }} as subscriber_id,
        windows.window_days,
        {{ project_today() }} - windows.window_days + 1 as from_date,
        {{ project_today() }} as to_date,
        {{ metric_sums('days.', names) }}
        cast(sum(days.events_processed) as bigint) as events_processed,
        count(distinct days.event_date) as active_days
    from {{ days }} as days
    inner join (
        {%- for days in var('windows') %}
        select {{ days }} as window_days
        {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as windows
        on days.event_date > {{ project_today() }} - windows.window_days
    left join {{ identities }} as identities
        on days.subscriber_id = identities.distinct_id
    where
        days.event_date between {{ project_today() }} - {{ var('windows') | max - 1 }} and {{ project_today() }}
        and {{ is_wanted_subscriber(person) }}
    group by 1, 2
{%- endmacro %}


{#
    Has the view of windows do without the metrics that `subscriber_days` is about to lose: its
    columns of them are null until the view itself is built.
#}
{% macro release_metrics() %}
    {%- if execute and not is_incremental() -%}
        {{ adapter.dispatch('release_metrics', 'mixpanel')(
            this.incorporate(path={'identifier': 'subscriber_windows'}, type='view'),
            this.incorporate(path={'identifier': 'identity_map'}, type='table')
        ) }}
    {%- endif -%}
{% endmacro %}


{# A view of DuckDB's is a text, which looks for the columns when it is read. #}
{% macro default__release_metrics(view, identities) %}{% endmacro %}
