{# .render(): a run with --empty must not leave behind a view that hides the events from the next. #}
{% set person = 'coalesce(identities.resolved_distinct_id, counted.subscriber_id)' -%}
select
    {{ person }} as subscriber_id,
    counted.event_date,
    cast(sum(counted.events_processed) as bigint) as events_processed
from {{ ref('subscriber_days').render() }} as counted
left join {{ ref('identity_map').render() }} as identities
    on counted.subscriber_id = identities.distinct_id
where
    counted.event_date <= {{ project_today() }}
    and {{ is_wanted_subscriber(person) }}
group by 1, 2
