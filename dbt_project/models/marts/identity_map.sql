{{
    config(
        materialized='incremental',
        incremental_strategy='replace_touched',
        unique_key='distinct_id',
        on_schema_change='fail',
        pre_hook="{{ touch_identities() }}",
        meta={
            'replace_touched': 'touched_ids',
            'hash_indexes': ['distinct_id', 'resolved_distinct_id', 'cluster_id'],
        },
    )
}}

-- depends_on: {{ ref('identity_edges') }}

select
    distinct_id,
    resolved_distinct_id,
    cluster_id,
    cluster_size
from resolved_ids
