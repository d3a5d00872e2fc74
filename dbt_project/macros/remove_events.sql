{#
    Removes the events for which `condition`, SQL on stg_mixpanel__events, is true, and works out
    from what is left who did what, and who is who: in one transaction, because a count without its
    events, or events that are still counted when they come again, would be wrong.

    To be called by `run.py remove`, which keeps syncs away meanwhile.
#}
{% macro remove_events(condition) %}
    {%- do begin_removal() -%}
    {%- do remove_from_models(condition) -%}
    {%- do adapter.dispatch('end_operation', 'mixpanel')() -%}
{% endmacro %}


{% macro begin_removal() %}
    {%- set subscribers = load_relation(ref('subscribers')) -%}
    {%- call statement('begin') -%}
        {{ adapter.dispatch('begin_operation', 'mixpanel')() }}
    {%- endcall -%}
    {%- if subscribers -%}
        {%- do run_statement(adapter.dispatch('lock_ledger', 'mixpanel')(counted_loads(subscribers)) or 'select 1') -%}
    {%- endif -%}
{% endmacro %}


{#
    Within a transaction. `other_evidence`: a condition on identity_edges, for what is to go though no
    removed event told of it.
#}
{% macro remove_from_models(condition, other_evidence='false') %}
    {%- do adapter.dispatch('remove_from_models', 'mixpanel')(condition, other_evidence) -%}
{% endmacro %}


{% macro default__remove_from_models(condition, other_evidence) %}
    {%- set events = ref('stg_mixpanel__events').render() -%}
    {%- set subscribers = load_relation(ref('subscribers')) -%}
    {%- if subscribers -%}
        {%- do refuse_other_definitions() -%}
    {%- endif -%}
    {%- do make_temporary_table('removed_events', "select event_key, event, subscriber_id from " ~ events ~ " where (" ~ condition ~ ")") -%}
    {%- if subscribers -%}
        {%- set removed_evidence -%}
            select anonymous_id, identified_id, evidence
            from ({{ identity_evidence(events, "event_key in (select event_key from removed_events)") }}) as told
            union
            select anonymous_id, identified_id, evidence
            from {{ ref('identity_edges').render() }}
            where {{ other_evidence }}
        {%- endset -%}
        {%- do make_temporary_table('removed_evidence', removed_evidence) -%}
    {%- endif -%}
    {%- do run_statement(
        "delete from " ~ source('mixpanel', 'events').render()
        ~ " where event_key in (select event_key from removed_events)"
    ) -%}
    {%- for name in ['events', 'touches'] if stored_table(name) -%}
        {%- do run_statement("delete from " ~ stored_table(name) ~ " where event_key in (select event_key from removed_events)") -%}
    {%- endfor -%}
    {%- set counts = stored_table('property_counts') -%}
    {%- if counts -%}
        {%- set of_names = "event in (select event from removed_events)" -%}
        {%- do replace_rows(counts, of_names, property_counts(events, of_names ~ " and " ~ is_counted(counts))) -%}
    {%- endif -%}
    {%- if subscribers -%}
        {%- set of_removed = "subscriber_id in (select subscriber_id from removed_events)" -%}
        {%- set days = ref('subscriber_days') -%}
        {%- do replace_rows(
            days, of_removed, subscriber_day_counts(events, of_removed ~ " and " ~ is_counted(days))
        ) -%}
        {%- do resolve_without_removed(events) -%}
        {%- do make_temporary_table('touched_subscribers', touched_by_removal()) -%}
        {%- do replace_rows(
            subscribers,
            "subscriber_id in (select subscriber_id from touched_subscribers)",
            subscriber_totals('touched_subscribers')
        ) -%}
    {%- endif -%}
{% endmacro %}


{#
    Whoever did what is removed is counted again by the declaration of now: everybody has to be
    counted by it already.
#}
{% macro refuse_other_definitions() %}
    {%- for model, definition in [
        (ref('subscriber_days'), metrics_definition()),
        (ref('identity_edges'), identity_definition()),
        (ref('subscribers'), subscribers_definition()),
    ] -%}
        {%- set others = run_query(
            "select count(*) from " ~ counted_loads(model) ~ " where model = " ~ text_literal(model.identifier)
            ~ " and definition_hash <> " ~ text_literal(local_md5(definition))
        ).rows[0][0] -%}
        {%- if others -%}
            {%- do refuse_to_add(model, problem_of_claims(counted_loads(model), false, others, 0)) -%}
        {%- endif -%}
    {%- endfor -%}
{% endmacro %}


{# A model's table; of a model that is switched off too: what is removed has to go there as well. #}
{% macro stored_table(name) -%}
    {%- set node = graph.nodes.get('model.mixpanel.' ~ name) or {} -%}
    {%- set subscribers = ref('subscribers') -%}
    {%- do return(load_relation(subscribers.incorporate(
        path={'schema': node.get('schema', subscribers.schema), 'identifier': node.get('alias', name)}, type='table'
    ))) -%}
{%- endmacro %}


{# dbt begins a transaction with the first statement. #}
{% macro default__begin_operation() -%}
    select 1
{%- endmacro %}


{% macro default__end_operation() %}
    {%- do adapter.commit() -%}
{% endmacro %}


{# Evidence that is gone with the removed events, and what it made of their ids. #}
{% macro resolve_without_removed(events) %}
    {%- set edges, identities = ref('identity_edges'), ref('identity_map') -%}
    {%- set is_removed -%}
        exists (
            select 1
            from removed_evidence as removed
            where
                removed.anonymous_id = edges.anonymous_id
                and removed.identified_id = edges.identified_id
                and removed.evidence = edges.evidence
        )
    {%- endset -%}
    {%- set left -%}
        select edges.*
        from ({{ identity_evidence(events, is_counted(edges), source('mixpanel', 'rekeyed_ids')) }}) as edges
        where {{ is_removed }}
    {%- endset -%}
    {#- A device that was bound by what is removed may be bound to another user now. -#}
    {%- set evident_ids -%}
        select anonymous_id as distinct_id from removed_evidence
        union
        select identified_id from removed_evidence
        union
        select identified_id from {{ edges.render() }}
        where anonymous_id in (select anonymous_id from removed_evidence)
    {%- endset -%}
    {%- do replace_rows(edges, is_removed, left, alias='edges') -%}
    {%- do resolve_identities(evident_ids, identities) -%}
    {%- do make_temporary_table(
        'known_ids', "select * from " ~ identities ~ " where distinct_id in (select distinct_id from touched_ids)"
    ) -%}
    {%- do replace_rows(
        identities, "distinct_id in (select distinct_id from touched_ids)", "select * from resolved_ids"
    ) -%}
{% endmacro %}


{# Whoever did something that is gone, and whoever had, or has now, one of the ids. #}
{% macro touched_by_removal() -%}
    select coalesce(identities.resolved_distinct_id, removed.subscriber_id) as subscriber_id
    from removed_events as removed
    left join {{ ref('identity_map').render() }} as identities
        on removed.subscriber_id = identities.distinct_id
    where removed.subscriber_id is not null
    union
    select distinct_id from touched_ids
    union
    select resolved_distinct_id from known_ids
    union
    select resolved_distinct_id from resolved_ids
{%- endmacro %}


{% macro is_counted(model) -%}
    _dlt_load_id in (
        select load_id from {{ counted_loads(model) }} where model = {{ text_literal(model.identifier) }}
    )
{%- endmacro %}


{# Has what the query finds take the place of the rows for which `condition` is true. #}
{% macro replace_rows(relation, condition, query, alias='stored') %}
    {%- set names = adapter.get_columns_in_relation(relation) | map(attribute='quoted') | join(', ') -%}
    {%- do make_temporary_table('replacements', query) -%}
    {%- do run_statement("delete from " ~ relation ~ " as " ~ alias ~ " where " ~ condition) -%}
    {%- do run_statement("insert into " ~ relation ~ " (" ~ names ~ ") select " ~ names ~ " from replacements") -%}
{% endmacro %}
