{# `run_query`, of a statement that returns nothing: Spark has nothing to fetch then. #}
{% macro run_statement(sql) %}
    {%- call statement('run_statement', fetch_result=false, auto_begin=false) -%}
        {{ sql }}
    {%- endcall -%}
{% endmacro %}
