{#
    Puts the descriptions of a model, of its columns and of the metrics and profile columns that are
    declared into the database, as comments. A post-hook of every model, instead of `persist_docs`:
    that writes them all again with each run, and knows nothing of columns that are declared
    elsewhere. Only what differs is written; what has no description keeps the comment that it has.

    A sync that builds no view has found the project as it was when they were written.
#}
{% macro describe() %}
    {{ adapter.dispatch('describe', 'mixpanel')() }}
{% endmacro %}


{% macro default__describe() %}
    {%- if execute and not (is_incremental() and 'model.mixpanel.stg_mixpanel__events' not in selected_resources) -%}
        {%- set kind = 'view' if model.config.materialized == 'view' else 'table' -%}
        {%- set wanted = {none: model.description} -%}
        {%- for name, column in model.columns.items() -%}
            {%- do wanted.update({name: column.description}) -%}
        {%- endfor -%}
        {%- set declared = {'events': ['event_columns'], 'subscriber_days': ['metrics'], 'subscribers': ['metrics', 'profile_columns']} -%}
        {%- for variable in declared.get(model.name, []) -%}
            {%- for name, one in (var(variable) or {}).items() -%}
                {%- do wanted.update({name: one.get('description')}) -%}
            {%- endfor -%}
        {%- endfor -%}
        {%- for row in run_query(adapter.dispatch('stored_descriptions', 'mixpanel')(this, kind)).rows -%}
            {%- set description = (wanted.get(row[0]) or '') | trim -%}
            {%- if description and description != row[1] %}
    comment on
                {%- if row[0] is none %} {{ kind }} {{ this }}
                {%- else %} column {{ this }}.{{ adapter.quote(row[0]) }}
                {%- endif %} is {{ text_literal(description) }};
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{% endmacro %}


{# Each column with its comment, and without a name that of the relation. #}
{% macro default__stored_descriptions(relation, kind) -%}
    select
        column_name,
        comment
    from duckdb_columns()
    where
        database_name = {{ text_literal(relation.database) }}
        and schema_name = {{ text_literal(relation.schema) }}
        and table_name = {{ text_literal(relation.identifier) }}
    union all
    select
        null,
        comment
    from duckdb_{{ kind }}s()
    where
        database_name = {{ text_literal(relation.database) }}
        and schema_name = {{ text_literal(relation.schema) }}
        and {{ kind }}_name = {{ text_literal(relation.identifier) }}
{%- endmacro %}
