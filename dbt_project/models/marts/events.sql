{#
    Nobody who declares no `event_columns` pays for it. A load is claimed once, so its events are
    appended; in order, so that DuckDB, which keeps of each part of a table the smallest and the
    largest value, skips most of it, of one event as of one subscriber.
#}
{{
    config(
        enabled=var('event_columns') | length > 0,
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='sync_all_columns',
        pre_hook="{{ claim_loads(definition=events_definition(), counts_anew=true) }}",
        meta={'hash_indexes': ['subscriber_id'], 'indexes': [['event', 'event_date']]},
    )
}}

-- One after the other: they keep one ledger, and what people are counted by comes first.
-- depends_on: {{ ref('subscribers') }}

select
    event_key,
    subscriber_id,
    event,
    {{ project_date('occurred_at') }} as event_date,
    occurred_at
    {%- for name, column in var('event_columns').items() %},
    {{ property_as(column.get('property', name), column.get('type', 'string')) }} as {{ adapter.quote(name) }}
    {%- endfor %}
from {{ ref('stg_mixpanel__events') }}
where
    _dlt_load_id in (
        {{ claimed_loads() | indent(8) }}
    )
order by event, subscriber_id
