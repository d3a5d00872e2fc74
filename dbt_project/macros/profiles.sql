{#
    Columns that `subscribers` takes from people's profiles, as `profile_columns` declares them: a
    name, and what it may say:

        property     the name of the property in Mixpanel; that of the column by default
        type         `text` (the default), `number`, `integer` or `boolean`
        description  for people

    A value that is not of the type is null; `profile_column_fit` counts them.
#}

{# What a declared column is of a profile's `properties`. #}
{% macro profile_value(name, column) -%}
    {%- set text = profile_text(name, column) -%}
    {%- set type = column.get('type', 'text') -%}
    {#- No more digits than the type holds: casting others would end the build. -#}
    {%- if type == 'text' -%}
    {{ text }}
    {%- elif type == 'number' -%}
    cast(case when {{ matches(text, '^-?[0-9]{1,200}([.][0-9]{1,200})?([eE][-+]?[0-9]{1,2})?$') }} then {{ text }} end as {{ type_double() }})
    {%- elif type == 'integer' -%}
    cast(case when {{ matches(text, '^-?[0-9]{1,18}([.]0*)?$') }} then split_part({{ text }}, '.', 1) end as bigint)
    {%- else -%}
    case lower({{ text }}) when 'true' then true when 'false' then false end
    {%- endif -%}
{%- endmacro %}


{# Its text as it came. #}
{% macro profile_text(name, column) -%}
    {{ property(column.get('property', name)) }}
{%- endmacro %}


{# What decides what is taken of profiles. #}
{% macro profiles_definition() -%}
    {%- do return(var('profile_columns') | string if var('profile_columns') else '') -%}
{%- endmacro %}


{#
    The profile of each person in `ids` (subscriber_id, distinct_id): the one under the id that the
    others resolve to; where there is none, that of the smallest. Mixpanel keeps one a person, but
    tells of a merge late.
#}
{% macro person_profiles(ids) -%}
    select
        subscriber_id
        {%- for name, column in var('profile_columns').items() %},
        {{ profile_value(name, column) }} as {{ adapter.quote(name) }}
        {%- endfor %}
    from (
        select
            ids.subscriber_id,
            profiles.properties,
            row_number() over (
                partition by ids.subscriber_id
                order by
                    case when ids.distinct_id = ids.subscriber_id then 1 else 2 end,
                    {{ in_binary_order('ids.distinct_id') }}
            ) as place
        from {{ ids }} as ids
        inner join {{ source('mixpanel', 'profiles').render() }} as profiles
            on ids.distinct_id = profiles.distinct_id
        where not profiles.is_deleted
    ) as found
    where place = 1
{%- endmacro %}


{#
    Up to which change of profiles `subscribers` has looked. It lives beside the models, and must be
    as durable.
#}
{% macro counted_profiles(relation) -%}
    {% do return(relation.incorporate(path={'identifier': 'counted_profiles'}, type='table')) %}
{%- endmacro %}


{# Whose profiles changed since then, until now; enters that. Changes are numbered as they commit. #}
{% macro touch_profiles() -%}
    {%- set counted = counted_profiles(this) -%}
    {%- set profiles = source('mixpanel', 'profiles').render() -%}
    {%- do run_statement("create table if not exists " ~ counted ~ " (change_id bigint not null)") -%}
    {%- set changes = run_query(
        "select (select coalesce(max(change_id), 0) from " ~ counted ~ "), coalesce(max(change_id), 0) from " ~ profiles
    ).rows[0] -%}
    {%- do adapter.dispatch('enter_counted_profiles', 'mixpanel')(counted, changes[0], changes[1]) -%}
    {%- set touched -%}
        select coalesce(identities.resolved_distinct_id, profiles.distinct_id) as subscriber_id
        from {{ profiles }} as profiles
        left join {{ ref('identity_map').render() }} as identities
            on profiles.distinct_id = identities.distinct_id
        where profiles.change_id > {{ changes[0] }}
    {%- endset -%}
    {%- do return(touched) -%}
{%- endmacro %}


{% macro default__enter_counted_profiles(counted, before, now) %}
    {%- if before != now -%}
        {%- do run_statement("delete from " ~ counted) -%}
        {%- do run_statement("insert into " ~ counted ~ " values (" ~ now ~ ")") -%}
    {%- endif -%}
{% endmacro %}
