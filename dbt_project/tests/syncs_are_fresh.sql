-- Into every destination a sync has succeeded lately: fewer hours ago than the variable `sync_age`
-- allows, whether it found events or not. A sync does not run this: it would fail by itself.
{{
    config(
        tags=['freshness'],
        fail_calc='coalesce(max(hours), 999999)',
        warn_if='> ' ~ var('sync_age').warn_after_hours,
        error_if='> ' ~ var('sync_age').error_after_hours,
    )
}}

select
    destination,
    last_sync_at,
    -- Whole hours, as dbt wants it, rounded up: then a minute more than allowed is too much.
    -- No sync counts as infinitely long ago; so `dbt source freshness` has it.
    cast(
        coalesce(ceil({{ seconds_between('last_sync_at', dbt.current_timestamp()) }} / 3600), 999999) as integer
    ) as hours
from {{ ref('sync_health') }}
