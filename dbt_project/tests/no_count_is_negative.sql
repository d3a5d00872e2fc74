-- Counting only ever adds: a negative count would mean that a merge subtracted.
select subscriber_id
from {{ ref('subscribers') }}
where
    false
    {% for name, metric in var('metrics').items() if not metric_is_flag(metric) -%}
    or {{ adapter.quote(name) }} < 0
    {% endfor %}
