-- The watermark of every destination moves: it is fewer hours old than the variable `watermark_lag`
-- allows. A sync does not run this, or an app that nobody uses for a day would make it fail.
{{
    config(
        tags=['freshness'],
        fail_calc='coalesce(max(hours), 999999)',
        warn_if='> ' ~ var('watermark_lag').warn_after_hours,
        error_if='> ' ~ var('watermark_lag').error_after_hours,
    )
}}

select
    destination,
    watermark,
    -- Whole hours, as dbt wants it, rounded up: then a minute more than allowed is too much.
    -- No watermark counts as infinitely old, and so does no run; so `dbt source freshness` has it.
    cast(coalesce(ceil(watermark_lag_hours), 999999) as integer) as hours
from {{ ref('sync_health') }}
