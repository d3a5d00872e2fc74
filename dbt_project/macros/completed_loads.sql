{#
    The loads that dlt finished. The rows of any other are half a delivery, which comes again.
    The staged events and the claims must agree on this, so both ask here.
#}
{% macro completed_loads() -%}
    select load_id
    from {{ source('mixpanel', '_dlt_loads').render() }}
    where
        schema_name = 'mixpanel'
        and status = 0
{%- endmacro %}
