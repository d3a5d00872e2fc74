{{ config(meta={'keeps_columns': true}) }}

{{ metrics_by_window(ref('subscriber_days').render(), ref('identity_map').render(), var('metrics').keys() | list) }}
