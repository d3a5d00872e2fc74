{{
    config(
        materialized='incremental',
        incremental_strategy='merge_add',
        unique_key='subscriber_id',
        on_schema_change='fail',
        pre_hook="{{ claim_loads(definition=metrics_definition()) }}",
        meta={'merge_add': {
            'first_event_at': 'least',
            'last_event_at': 'greatest',
            'updated_at': 'replace',
        }},
        indexes=[{'columns': ['subscriber_id'], 'unique': true}],
    )
}}

with

claimed_events as (

    select *
    from {{ ref('stg_mixpanel__events') }}
    where
        _dlt_load_id in (
            {{ claimed_loads() | indent(8) }}
        )
        and {{ is_tracked_event() }}
        and subscriber_id is not null

),

counted as (

    select
        subscriber_id,
        {{ metric_columns() }}
        count(*) as events_processed,
        min(occurred_at) as first_event_at,
        max(occurred_at) as last_event_at,
        {{ dbt.current_timestamp() }} as updated_at
    from claimed_events
    group by subscriber_id

)

select * from counted
