{# .render(): a run with --empty must not leave behind a view that hides the profiles from the next. #}
with

profiles as (

    select properties
    from {{ source('mixpanel', 'profiles').render() }}
    where not is_deleted

)

{% for name, column in var('profile_columns').items() %}
select
    '{{ name }}' as column_name,
    count({{ profile_text(name, column) }}) as profiles_with_value,
    count(case when {{ profile_value(name, column) }} is null then {{ profile_text(name, column) }} end)
        as values_not_fitting
from profiles
{{ 'union all' if not loop.last }}
{% else %}
select
    cast(null as {{ dbt.type_string() }}) as column_name,
    count(*) as profiles_with_value,
    count(*) as values_not_fitting
from profiles
where false
having false
{% endfor %}
