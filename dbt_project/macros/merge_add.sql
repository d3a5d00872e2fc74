{#
    An incremental strategy for models that aggregate only what is new: the new row of a key is
    added to the stored one. Counts are added and booleans or-ed; a model names its other columns
    in its config:

        meta={'merge_add': {'first_event_at': 'least', 'updated_at': 'replace'}}

    It counts twice what it is given twice: a model that uses it begins with `claim_loads`.
#}
{% macro get_incremental_merge_add_sql(arg_dict) %}
    {{ adapter.dispatch('get_incremental_merge_add_sql', 'mixpanel')(arg_dict) }}
{% endmacro %}


{# The columns, the names of the key, and the rules by column. #}
{% macro merge_add_arguments(arg_dict) %}
    {%- set columns = arg_dict['dest_columns'] -%}
    {%- set rules = config.meta_get('merge_add', {}) -%}
    {%- set keys = arg_dict['unique_key'] -%}
    {%- set keys = [keys] if keys is string else keys -%}
    {%- set unknown = rules.keys() | reject('in', columns | map(attribute='name') | list) | list -%}

    {%- if not keys -%}
        {%- do exceptions.raise_compiler_error("merge_add needs a unique_key to know which rows to add up") -%}
    {%- elif unknown -%}
        {%- do exceptions.raise_compiler_error("merge_add has rules for columns that are not there: " ~ unknown | join(', ')) -%}
    {%- elif arg_dict['incremental_predicates'] -%}
        {%- do exceptions.raise_compiler_error("merge_add cannot take predicates: a stored row they hide would be inserted again") -%}
    {%- endif -%}

    {%- do return((columns, keys, rules)) -%}
{% endmacro %}


{% macro default__get_incremental_merge_add_sql(arg_dict) %}
    {%- set columns, keys, rules = merge_add_arguments(arg_dict) -%}
    merge into {{ arg_dict['target_relation'] }} as stored
    using {{ arg_dict['temp_relation'] }} as added
        on {% for key in keys -%}
            stored.{{ adapter.quote(key) }} = added.{{ adapter.quote(key) }}{{ ' and ' if not loop.last }}
        {%- endfor %}
    when matched then update set
        {%- for column in columns if column.name not in keys %}
        {{ column.quoted }} = {{ merged_column(column, rules.get(column.name)) }}{{ ',' if not loop.last }}
        {%- endfor %}
    when not matched then insert
        ({{ columns | map(attribute='quoted') | join(', ') }})
    values
        (added.{{ columns | map(attribute='quoted') | join(', added.') }})
{% endmacro %}


{% macro merged_column(column, rule) -%}
    {%- set rule = rule or ('or' if column.dtype | lower == 'boolean' else 'add') -%}
    {%- set stored = 'stored.' ~ column.quoted -%}
    {%- set added = 'added.' ~ column.quoted -%}
    {%- if rule == 'add' -%}
        coalesce({{ stored }}, 0) + coalesce({{ added }}, 0)
    {%- elif rule == 'or' -%}
        coalesce({{ stored }}, false) or coalesce({{ added }}, false)
    {%- elif rule in ('least', 'greatest') -%}
        {#- Both ignore nulls, on either engine. -#}
        {{ rule }}({{ stored }}, {{ added }})
    {%- elif rule == 'replace' -%}
        {{ added }}
    {%- else -%}
        {%- do exceptions.raise_compiler_error("merge_add does not know the rule " ~ rule ~ " of " ~ column.name) -%}
    {%- endif -%}
{%- endmacro %}
