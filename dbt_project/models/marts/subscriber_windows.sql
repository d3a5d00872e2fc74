{% for days in var('windows') %}
select
    subscriber_id,
    {{ days }} as window_days,
    {{ project_today() }} - {{ days - 1 }} as from_date,
    {{ project_today() }} as to_date,
    {{ metric_sums() }}
    cast(sum(events_processed) as bigint) as events_processed,
    count(*) as active_days
from {{ ref('active_days').render() }}
where event_date > {{ project_today() }} - {{ days }}
group by subscriber_id
{% if not loop.last %}union all{% endif %}
{% endfor %}
