{#
    The id under which an event happened: what it was before Mixpanel exported it under another one,
    else the first of Mixpanel's ids that is not empty. distinct_id is what Mixpanel's own reports
    count by; the others serve the events that lack it. (`case`, because in `coalesce` alone DuckDB
    would read the properties of every event.)
#}
{% macro subscriber_id() -%}
    case
        {%- if var('identity') == 'resolve' %}
        when distinct_id_before_identity <> '' then distinct_id_before_identity
        {%- endif %}
        when distinct_id <> '' then distinct_id
        else coalesce(
            {%- for name in ['$distinct_id', 'user_id', '$user_id', 'identified_id', '$identified_id'] %}
            nullif({{ property(name) }}, ''){{ ',' if not loop.last }}
            {%- endfor %}
        )
    end
{%- endmacro %}
