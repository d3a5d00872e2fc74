-- Whatever the metrics are: no event was counted by a metric that was not processed. Metrics of one
-- event may count the same events, those of different ones cannot.
{% set by_event = {} %}
{% for name, metric in var('metrics').items() -%}
{% do by_event.setdefault(metric.event, []).append(metric_as_number(name, metric)) %}
{%- endfor %}

select subscriber_id
from {{ ref('subscribers') }}
where
    (
        0
        {% for amounts in by_event.values() -%}
        + greatest({{ amounts | join(', ') }})
        {% endfor -%}
        <= events_processed
    ) is not true
