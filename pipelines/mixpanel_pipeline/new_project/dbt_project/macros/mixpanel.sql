{#
    Has the models of the package `mixpanel` built by its own materializations, which on PostgreSQL
    keep the views and grants that others hang on them. Your own models are built by dbt's.
#}
{% materialization view, adapter='postgres' %}
    {%- if model.package_name == 'mixpanel' -%}
        {{ return(mixpanel.materialization_view_postgres()) }}
    {%- endif -%}
    {{ return(dbt.materialization_view_default()) }}
{% endmaterialization %}


{% materialization incremental, adapter='postgres' %}
    {%- if model.package_name == 'mixpanel' -%}
        {{ return(mixpanel.materialization_incremental_postgres()) }}
    {%- endif -%}
    {{ return(dbt.materialization_incremental_default()) }}
{% endmaterialization %}
