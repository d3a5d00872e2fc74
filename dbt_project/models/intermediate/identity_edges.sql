{{
    config(
        materialized='incremental',
        incremental_strategy='merge_add',
        unique_key=['anonymous_id', 'identified_id', 'evidence'],
        on_schema_change='fail',
        pre_hook="{{ claim_loads(definition=identity_definition()) }}",
        meta={
            'merge_add': {'first_seen_at': 'replace', '_dlt_load_id': 'replace'},
            'hash_indexes': ['anonymous_id', 'identified_id'],
            'indexes': ['_dlt_load_id'],
        },
    )
}}

-- One after the other: they keep one ledger, and DuckDB makes no writer wait for another.
-- depends_on: {{ ref('subscriber_days') }}

{% set is_claimed -%}
    _dlt_load_id in (
        {{ claimed_loads() | indent(4) }}
    )
{%- endset -%}
with

evidence as (

    {{ identity_evidence(ref('stg_mixpanel__events'), is_claimed, source('mixpanel', 'rekeyed_ids')) }}

)

select evidence.*
from evidence
{% if is_incremental() -%}
-- What is known already, and not seen earlier now, touches nobody.
left join {{ this }} as known
    on
        evidence.anonymous_id = known.anonymous_id
        and evidence.identified_id = known.identified_id
        and evidence.evidence = known.evidence
where known.evidence is null or known.first_seen_at > evidence.first_seen_at
{%- endif %}
