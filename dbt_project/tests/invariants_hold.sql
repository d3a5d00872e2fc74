-- What holds for every subscriber does: what `dbt_project.yml` declares, and what counts are by
-- themselves. `invariant` says what does not. One test, as each sync reads all subscribers for it.
{%- set invariants = [
    ('subscriber_id is not null', 'subscriber_id is not null'),
    ('events_processed > 0', 'events_processed > 0'),
    ('first_event_at <= last_event_at', 'first_event_at <= last_event_at'),
] -%}
{%- for invariant in var('invariants', []) -%}
    {%- do invariants.append((invariant, invariant_condition(invariant))) -%}
{%- endfor -%}
{#- Counting only ever adds: a negative count would mean that a merge subtracted. -#}
{%- for name, metric in var('metrics').items() if not metric_is_flag(metric) -%}
    {%- do invariants.append((name ~ ' >= 0', adapter.quote(name) ~ ' >= 0')) -%}
{%- endfor -%}
{#- No event was counted by a metric that was not processed. Metrics of one event may count the same
    events, those of different ones cannot. -#}
{%- set by_event = {} -%}
{%- for name, metric in var('metrics').items() -%}
    {%- do by_event.setdefault(metric.event, []).append(metric_as_number(name, metric)) -%}
{%- endfor -%}
{%- set processed = [] -%}
{%- for amounts in by_event.values() -%}
    {%- do processed.append('greatest(' ~ amounts | join(', ') ~ ')') -%}
{%- endfor -%}
{%- if processed -%}
    {%- do invariants.append((
        'the metrics fit in events_processed', processed | join(' + ') ~ ' <= events_processed'
    )) -%}
{%- endif %}

select
    subscriber_id,
    invariant
from (
    select
        subscriber_id,
        case
            {% for told, condition in invariants -%}
            when ({{ condition }}) is not true then {{ text_literal(told) }}
            {% endfor -%}
        end as invariant
    from {{ ref('subscribers') }}
) as checked
where invariant is not null
