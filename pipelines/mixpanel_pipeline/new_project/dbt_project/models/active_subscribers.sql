-- A model of your own on what the package counts: each sync brings it up to date.
select subscriber_id, events_processed, last_event_at
from {{ ref('mixpanel', 'subscribers') }}
where last_event_at >= {{ dbt.current_timestamp() }} - interval '28 days'
