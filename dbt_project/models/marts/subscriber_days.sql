{{
    config(
        materialized='incremental',
        incremental_strategy='merge_add',
        unique_key=['subscriber_id', 'event_date'],
        on_schema_change='fail',
        pre_hook=[
            "{{ claim_loads(definition=metrics_definition(), counts_metrics=true) }}",
            "{{ release_metrics() }}",
        ],
        meta={
            'merge_add': {
                'first_event_at': 'least',
                'last_event_at': 'greatest',
                'updated_at': 'replace',
            },
            'hash_indexes': ['subscriber_id'],
        },
    )
}}

{% set is_claimed -%}
    _dlt_load_id in (
        {{ claimed_loads() | indent(4) }}
    )
{%- endset -%}
{{ subscriber_day_counts(ref('stg_mixpanel__events'), is_claimed) }}
