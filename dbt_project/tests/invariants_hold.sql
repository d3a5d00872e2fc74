-- What `dbt_project.yml` declares to hold for every subscriber does; `invariant` says what does not.
{% for invariant in var('invariants', []) %}
select
    subscriber_id,
    {{ text_literal(invariant) }} as invariant
from {{ ref('subscribers') }}
where ({{ invariant_condition(invariant) }}) is not true
union all
{% endfor %}
select
    subscriber_id,
    'first_event_at <= last_event_at' as invariant
from {{ ref('subscribers') }}
where (first_event_at <= last_event_at) is not true
