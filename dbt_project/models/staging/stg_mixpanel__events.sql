{#
    PostgreSQL must find the events of a load by their index on _dlt_load_id, hence
    - no `with`: it plans a view that begins with one by itself, reading all events;
    - `is true`: it looks each load up. Without, it joins, trusting estimates that are far off
      right after a load: minutes instead of seconds.

    .render(): a run with --empty must not leave behind a view that hides the events from the next.
#}
select
    -- ids
    events.event_key,
    {{ subscriber_id() }} as subscriber_id,
    events.distinct_id,
    events.distinct_id_before_identity,
    events.insert_id,
    events._dlt_load_id,

    -- strings
    events.event,

    -- everything Mixpanel sent: see the macro `property`
    events.properties,

    -- numbers
    events.replaced_characters,

    -- timestamps
    events.occurred_at,
    events.processed_at,
    loads.loaded_at

from {{ source('mixpanel', 'events').render() }} as events
left join (
    select
        load_id,
        min(inserted_at) as loaded_at
    from {{ source('mixpanel', '_dlt_loads').render() }}
    group by load_id
) as loads
    on events._dlt_load_id = loads.load_id
where (
    events._dlt_load_id in (
        {{ completed_loads() | indent(4) }}
    )
) is true
