-- Events come: the last one is not further behind what the last sync asked for than the variable
-- `quiet_hours`. Only a warning, because nobody may have used the app.
{{ config(tags=['freshness'], severity='warn') }}

select
    destination,
    watermark,
    quiet_hours
from {{ ref('sync_health') }}
where quiet_hours > {{ var('quiet_hours') }}
