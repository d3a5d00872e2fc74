{#
    Removes the events for which `condition`, SQL on stg_mixpanel__events, is true, and counts those
    who did them again from what is left of the counted loads: in one transaction, because a count
    without its events, or events that are still counted when they come again, would be wrong.

    To be called by `run.py remove`, which keeps syncs away meanwhile.
#}
{% macro remove_events(condition) %}
    {%- set events = ref('stg_mixpanel__events') -%}
    {%- set subscribers = load_relation(ref('subscribers')) -%}
    {%- set ledger = counted_loads(ref('subscribers')) -%}
    {%- call statement('remove') -%}
        {%- if subscribers -%}
            {{ adapter.dispatch('lock_ledger')(ledger) }}
        {%- endif %}
        create temporary table removed_events as
        select event_key, subscriber_id from {{ events.render() }} where ({{ condition }});

        delete from {{ source('mixpanel', 'events').render() }}
        where event_key in (select event_key from removed_events);

        {% if subscribers %}
            create temporary table recounted_subscribers as
            select
                subscriber_id,
                {{ metric_columns() }}
                count(*) as events_processed,
                min(occurred_at) as first_event_at,
                max(occurred_at) as last_event_at,
                {{ dbt.current_timestamp() }} as updated_at
            from {{ events.render() }}
            where
                subscriber_id in (select subscriber_id from removed_events)
                and _dlt_load_id in (select load_id from {{ ledger }} where model = 'subscribers')
                and {{ is_tracked_event() }}
            group by subscriber_id;

            delete from {{ subscribers }}
            where
                subscriber_id in (select subscriber_id from removed_events)
                and subscriber_id not in (select subscriber_id from recounted_subscribers);

            update {{ subscribers }} as stored
            set
                {%- for column in adapter.get_columns_in_relation(subscribers) if column.name != 'subscriber_id' %}
                {{ column.quoted }} = recounted.{{ column.quoted }}{{ ',' if not loop.last }}
                {%- endfor %}
            from recounted_subscribers as recounted
            where stored.subscriber_id = recounted.subscriber_id;
        {% endif %}
    {%- endcall -%}
    {%- do adapter.commit() -%}
{% endmacro %}
