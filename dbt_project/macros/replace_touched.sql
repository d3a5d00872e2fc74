{#
    An incremental strategy for models that work out anew whatever was touched: the rows of the keys
    in a temporary table go, and those that the model selects take their place. The model's pre-hook
    makes that table, whose name the model says in its config:

        meta={'replace_touched': 'touched_subscribers'}

    A key that has no rows any more is gone; one that is worked out twice is the same.
#}
{% macro get_incremental_replace_touched_sql(arg_dict) %}
    {{ adapter.dispatch('get_incremental_replace_touched_sql', 'mixpanel')(arg_dict) }}
{% endmacro %}


{% macro default__get_incremental_replace_touched_sql(arg_dict) %}
    {%- set target = arg_dict['target_relation'] -%}
    {%- set key = adapter.quote(arg_dict['unique_key']) -%}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ target }}
    where {{ key }} in (select {{ key }} from {{ config.meta_get('replace_touched') }});

    insert into {{ target }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{% endmacro %}


{#
    Makes a temporary table, which a pre-hook leaves to its model, in the place of one that is left
    from before.
#}
{% macro make_temporary_table(name, query) %}
    {%- do adapter.dispatch('make_temporary_table', 'mixpanel')(name, query) -%}
{% endmacro %}


{% macro default__make_temporary_table(name, query) %}
    {%- call statement('temporary_table') -%}
        drop table if exists {{ name }};
        create temporary table {{ name }} as
        {{ query }};
        {{ adapter.dispatch('tell_planner', 'mixpanel')(name) }}
    {%- endcall -%}
{% endmacro %}


{% macro default__tell_planner(name) %}{% endmacro %}


{# Without statistics it would read all rows to find a few. #}
{% macro postgres__tell_planner(name) %}
    analyze {{ name }}
{% endmacro %}
