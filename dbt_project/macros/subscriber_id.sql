{#
    The first of Mixpanel's ids that is not empty. They stand in the order of trust: distinct_id is
    what Mixpanel's own reports count by.
#}
{% macro subscriber_id() -%}
    coalesce(
        nullif(distinct_id, ''),
        {%- for name in ['$distinct_id', 'user_id', '$user_id', 'identified_id', '$identified_id'] %}
        nullif({{ property(name) }}, ''){{ ',' if not loop.last }}
        {%- endfor %}
    )
{%- endmacro %}
