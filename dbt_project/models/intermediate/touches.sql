{# Few events tell of a visit: they are kept apart, so that whoever asks reads no payload. #}
{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        pre_hook="{{ claim_loads(definition=touches_definition(), counts_anew=true) }}",
        meta={'hash_indexes': ['event_key']},
    )
}}

-- One after the other: they keep one ledger, and what people are counted by comes first.
-- depends_on: {{ ref('subscribers') }}

{% set is_claimed -%}
    _dlt_load_id in (
        {{ claimed_loads() | indent(4) }}
    )
{%- endset -%}
{{ touches(ref('stg_mixpanel__events'), is_claimed) }}
