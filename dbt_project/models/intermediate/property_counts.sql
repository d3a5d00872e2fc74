{{
    config(
        enabled=var('property_dictionary'),
        materialized='incremental',
        incremental_strategy='merge_add',
        unique_key='count_key',
        on_schema_change='fail',
        pre_hook="{{ claim_loads(definition=dictionary_definition(), counts_anew=true) }}",
        meta={
            'merge_add': {
                'event': 'replace',
                'property': 'replace',
                'type': 'replace',
                'bucket': 'replace',
                'first_seen_at': 'least',
                'last_seen_at': 'greatest',
                'smallest_hash': 'replace',
            },
        },
    )
}}

-- One after the other: they keep one ledger, and what people are counted by comes first.
-- depends_on: {{ ref('subscribers') }}

{% set is_claimed -%}
    _dlt_load_id in (
        {{ claimed_loads() | indent(4) }}
    )
{%- endset -%}
with

added as (

    {{ property_counts(ref('stg_mixpanel__events'), is_claimed) }}

)

select added.*
from added
{% if is_incremental() -%}
-- A hash that is no smaller changes nothing.
left join {{ this }} as known
    on added.count_key = known.count_key
where
    added.bucket = ''
    or known.count_key is null
    or {{ in_binary_order('added.smallest_hash') }} < {{ in_binary_order('known.smallest_hash') }}
{%- endif %}
