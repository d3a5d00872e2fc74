{# What is counted of events per subscriber and day, by whoever counts them. #}
{% macro subscriber_day_counts(events, condition) -%}
    {%- set day = project_date('occurred_at') -%}
    select
        subscriber_id,
        {{ day }} as event_date,
        {{ metric_columns() }}
        count(*) as events_processed,
        min(occurred_at) as first_event_at,
        max(occurred_at) as last_event_at,
        {{ dbt.current_timestamp() }} as updated_at
    from {{ events }}
    where
        {{ condition }}
        and {{ is_tracked_event() }}
        and subscriber_id is not null
    group by subscriber_id, {{ day }}
{%- endmacro %}


{# What the days of the subscribers in `touched` add up to, per person, and what their profile says. #}
{% macro subscriber_totals(touched) -%}
    with ids as (
        select
            identities.resolved_distinct_id as subscriber_id,
            identities.distinct_id
        from {{ ref('identity_map').render() }} as identities
        where identities.resolved_distinct_id in (select touched.subscriber_id from {{ touched }} as touched)
        union all
        -- Whoever is known under one id only is not in the map.
        select
            touched.subscriber_id,
            touched.subscriber_id as distinct_id
        from {{ touched }} as touched
        where not exists (
            select 1
            from {{ ref('identity_map').render() }} as identities
            where identities.distinct_id = touched.subscriber_id
        )
    )

    select
        totals.*
        {%- for name in var('profile_columns') %},
        profiles.{{ adapter.quote(name) }}
        {%- endfor %}
    from (
        select
            ids.subscriber_id,
            {{ metric_sums('days.') }}
            cast(sum(days.events_processed) as bigint) as events_processed,
            min(days.first_event_at) as first_event_at,
            max(days.last_event_at) as last_event_at,
            {{ dbt.current_timestamp() }} as updated_at
        from ids
        inner join {{ ref('subscriber_days').render() }} as days
            on ids.distinct_id = days.subscriber_id
        where {{ is_wanted_subscriber('ids.subscriber_id') }}
        group by ids.subscriber_id
    ) as totals
    {% if var('profile_columns') -%}
    left join (
        {{ person_profiles('ids') }}
    ) as profiles
        on totals.subscriber_id = profiles.subscriber_id
    {%- endif %}
{%- endmacro %}


{# Whoever never signed in is left out if the variable `include_anonymous` says so. #}
{% macro is_wanted_subscriber(subscriber_id) -%}
    {{ 'true' if var('include_anonymous', true) else subscriber_id ~ " not like '$device:%'" }}
{%- endmacro %}


{# What decides what `subscribers` says. #}
{% macro subscribers_definition() -%}
    {%- do return(metrics_definition() ~ var('include_anonymous') ~ profiles_definition()) -%}
{%- endmacro %}


{#
    The pre-hook of `subscribers`: claims what the models it is built on counted, and makes the
    temporary table `touched_subscribers` of those whose counts that may change.
#}
{% macro touch_subscribers() %}
    {%- set events, days, identities = ref('stg_mixpanel__events'), ref('subscriber_days'), ref('identity_map') -%}
    {%- if execute -%}
        {%- set everything = claim_counted_loads(subscribers_definition(), [days, identities]) -%}
        {%- set changes = identity_changes(this) -%}
        {%- do run_statement(open_identity_changes(changes)) -%}
        {%- do adapter.dispatch('look_at_identity_changes', 'mixpanel')(changes) -%}
        {%- if flags.EMPTY -%}
            {%- do make_temporary_table('touched_subscribers', "select subscriber_id from " ~ days.render() ~ " where false") -%}
        {%- else -%}
            {%- set of_profiles = touch_profiles() -%}
            {%- do make_temporary_table(
                'touched_subscribers', everyone() if everything else touched_since(changes) ~ " union " ~ of_profiles
            ) -%}
        {%- endif -%}
        {%- if not flags.EMPTY -%}
            {%- do adapter.dispatch('forget_identity_changes', 'mixpanel')(changes) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}


{# Where one transaction holds all of a model, what it looks at stays as it is. #}
{% macro default__look_at_identity_changes(changes) %}{% endmacro %}


{% macro default__forget_identity_changes(changes) %}
    {%- do run_statement("delete from " ~ changes) -%}
{% endmacro %}


{# The post-hook of `subscribers`: what it looked at is done with, where no transaction says so. #}
{% macro settle_touched() %}
    {{ adapter.dispatch('settle_touched', 'mixpanel')() }}
{% endmacro %}


{% macro default__settle_touched() %}{% endmacro %}


{% macro touched_subscribers() -%}
    touched_subscribers
{%- endmacro %}


{# Everybody there is, and everybody who is stored. #}
{% macro everyone() -%}
    select coalesce(identities.resolved_distinct_id, days.subscriber_id) as subscriber_id
    from {{ ref('subscriber_days').render() }} as days
    left join {{ ref('identity_map').render() }} as identities
        on days.subscriber_id = identities.distinct_id
    {% if is_incremental() -%}
    union
    select subscriber_id from {{ this }}
    {%- else -%}
    group by 1
    {%- endif %}
{%- endmacro %}


{# Who did something in the claimed loads, and whose ids became other people's. #}
{% macro touched_since(changes) -%}
    select coalesce(identities.resolved_distinct_id, events.subscriber_id) as subscriber_id
    from (
        select distinct subscriber_id
        from {{ ref('stg_mixpanel__events').render() }}
        where
            _dlt_load_id in ({{ claimed_loads() }})
            and {{ is_tracked_event() }}
            and subscriber_id is not null
    ) as events
    left join {{ ref('identity_map').render() }} as identities
        on events.subscriber_id = identities.distinct_id
    union
    select resolved_before from {{ changes }}
    union
    select resolved_after from {{ changes }}
{%- endmacro %}
