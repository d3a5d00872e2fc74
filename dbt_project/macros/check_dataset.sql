{#
    The models of a raw dataset have a schema to themselves: those of another one, built over them,
    would replace its counts. A sync refuses that before it loads; this is for dbt by hand.
#}
{% macro check_dataset() %}
    {%- if execute -%}
        {%- do adapter.dispatch('check_dataset', 'mixpanel')() -%}
    {%- endif -%}
{% endmacro %}


{% macro default__check_dataset() %}
    {%- set raw = source('mixpanel', '_dlt_loads').schema -%}
    {#- What a view reads, only its own owner sees. -#}
    {%- for row in run_query(
        "select view_definition from information_schema.views where table_name = 'stg_mixpanel__events' "
        ~ "and table_schema = " ~ text_literal(target.schema)
    ).rows -%}
        {%- set read = modules.re.findall('([a-z0-9_]+)"?[.]"?_dlt_loads', row[0] or '') -%}
        {%- if read and raw not in read -%}
            {%- do exceptions.raise_compiler_error(
                "The schema " ~ target.schema ~ " counts the events of " ~ read | unique | join(', ')
                ~ ", not of " ~ raw ~ ". Nothing was changed; set SOURCES__MIXPANEL__DATASET_NAME and "
                ~ "SOURCES__MIXPANEL__MART_SCHEMA to two that belong together."
            ) -%}
        {%- endif -%}
    {%- endfor -%}
{% endmacro %}


{# The end of a run: what an engine made for it alone goes. #}
{% macro close_run() %}
    {%- if execute -%}
        {%- do adapter.dispatch('close', 'mixpanel')() -%}
    {%- endif -%}
{% endmacro %}


{% macro default__close() %}{% endmacro %}
