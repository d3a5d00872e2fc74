{{
    config(
        materialized='incremental',
        incremental_strategy='replace_touched',
        unique_key='subscriber_id',
        on_schema_change='sync_all_columns',
        pre_hook="{{ touch_subscribers() }}",
        post_hook="{{ settle_touched() }}",
        meta={'replace_touched': 'touched_subscribers'},
    )
}}

-- depends_on: {{ ref('subscriber_days') }}
-- depends_on: {{ ref('identity_map') }}
-- depends_on: {{ ref('stg_mixpanel__events') }}
-- depends_on: {{ source('mixpanel', 'profiles') }}

{{ subscriber_totals(touched_subscribers()) }}
