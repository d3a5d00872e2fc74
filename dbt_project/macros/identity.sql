{#
    Who is who. Mixpanel's export says it late and in part, so it is worked out from evidence:

    - `device`: an event with both `$device_id` and `$user_id`, also one that is not loaded itself. A
      device is bound once, to the user of the first such event; it never makes one of two users.
    - `identify`, `alias`, `merge`: the events by which an app says so.
    - `rekeyed`: a copy of an event under another id than before.

    What is bound together, however many steps apart, is one person. Ids that an app sends for
    nobody, and clusters of more ids than Mixpanel allows, are not.
    https://docs.mixpanel.com/docs/tracking-methods/id-management/identifying-users-simplified
    https://docs.mixpanel.com/docs/tracking-methods/id-management/identifying-users-original
#}

{#
    The pieces of evidence in events, and of events that are not loaded, for which `condition`
    is true: one row each, the earliest.
#}
{% macro identity_evidence(events, condition, rekeyed=none) -%}
    select
        anonymous_id,
        identified_id,
        evidence,
        min(occurred_at) as first_seen_at,
        min(_dlt_load_id) as _dlt_load_id
    from (
        select
            case when device_id like '$device:%' then device_id else '$device:' || device_id end as anonymous_id,
            user_id as identified_id,
            'device' as evidence,
            occurred_at,
            _dlt_load_id
        from (
            {{ devices_of_users(events, condition) | indent(8) }}
        ) as devices
        where device_id <> '' and user_id <> ''
        union all
        select
            coalesce({{ property('$anon_id') }}, {{ property('$anon_distinct_id') }}),
            coalesce({{ property('$identified_id') }}, distinct_id),
            'identify',
            occurred_at,
            _dlt_load_id
        from {{ events }}
        where {{ condition }} and event = '$identify'
        union all
        select
            {{ property('distinct_id') }},
            {{ property('alias') }},
            'alias',
            occurred_at,
            _dlt_load_id
        from {{ events }}
        where {{ condition }} and event = '$create_alias'
        union all
        select
            {{ property_item('$distinct_ids', 0) }},
            {{ property_item('$distinct_ids', 1) }},
            'merge',
            occurred_at,
            _dlt_load_id
        from {{ events }}
        where {{ condition }} and event = '$merge'
        {% if rekeyed -%}
        union all
        select
            distinct_id_before_identity,
            distinct_id,
            evidence,
            occurred_at,
            _dlt_load_id
        from {{ rekeyed }}
        where {{ condition }}
        {%- endif %}
    ) as seen
    where
        anonymous_id <> identified_id
        and {{ is_somebody('anonymous_id') }}
        and {{ is_somebody('identified_id') }}
        {% if var('identity') == 'as_exported' -%}
        and false
        {%- endif %}
    group by anonymous_id, identified_id, evidence
{%- endmacro %}


{#
    What events name together: `device_id` and `user_id`, when that happened and what load brought it;
    a pair may be there more than once.
#}
{% macro devices_of_users(events, condition) -%}
    {{ adapter.dispatch('devices_of_users', 'mixpanel')(events, condition) }}
{%- endmacro %}


{% macro default__devices_of_users(events, condition) -%}
    select
        {{ mixpanel.property('$device_id') }} as device_id,
        {{ mixpanel.property('$user_id') }} as user_id,
        occurred_at,
        _dlt_load_id
    from {{ events }}
    where {{ condition }}
{%- endmacro %}


{% macro is_somebody(id) -%}
    {{ id }} <> ''
    and lower(replace({{ id }}, '$device:', '')) not in (
        ''{% for junk in var('junk_ids') %}, {{ text_literal(junk | lower) }}{% endfor %}
    )
{%- endmacro %}


{# What decides which evidence is taken, and what is made of it. #}
{% macro identity_definition() -%}
    {%- do return([var('identity'), var('junk_ids'), var('max_cluster_ids')] | string) -%}
{%- endmacro %}


{#
    The pre-hook of `identity_map`: claims what `identity_edges` counted, makes the temporary table
    `touched_ids` of all ids in clusters that new evidence is about, and the temporary table
    `resolved_ids` of what they are now; enters those that changed for `subscribers`.
#}
{% macro touch_identities() %}
    {%- set edges = ref('identity_edges') -%}
    {%- if execute -%}
        {%- set everything = claim_counted_loads(identity_definition(), [edges]) -%}
        {%- set of_claimed_loads -%}
            where {{ 'false' if flags.EMPTY else 'true' if everything else '_dlt_load_id in (' ~ claimed_loads() ~ ')' }}
        {%- endset -%}
        {%- set evident_ids -%}
            select anonymous_id as distinct_id from {{ edges.render() }} {{ of_claimed_loads }}
            union
            select identified_id from {{ edges.render() }} {{ of_claimed_loads }}
        {%- endset -%}
        {%- do resolve_identities(evident_ids, this if is_incremental(), everything) -%}
        {%- set changes = identity_changes(this) -%}
        {%- do run_statement(open_identity_changes(changes)) -%}
        {#- Of a map that is new altogether, `subscribers` knows by the ledger. -#}
        {%- if not everything -%}
            {%- do run_statement(enter_identity_changes(changes, this)) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}


{#
    Makes `touched_ids` and `resolved_ids`.

    `evident_ids`: a query for the ids that evidence is about.
    `stored`: the map as it is; none when there is none.
    `everything`: whether nothing that is stored is to be kept.
#}
{% macro resolve_identities(evident_ids, stored, everything=false) %}
    {%- set edges = ref('identity_edges').render() -%}
    {%- do make_temporary_table('evident_ids', evident_ids) -%}
    {%- if not everything and run_query("select count(*) from evident_ids").rows[0][0] == 0 -%}
        {%- do make_temporary_table('touched_ids', "select distinct_id from evident_ids") -%}
        {%- do make_temporary_table('resolved_ids', "select * from " ~ stored ~ " where false") -%}
        {%- do return('') -%}
    {%- endif -%}
    {%- set touched -%}
        select distinct_id from evident_ids
        {% if stored and everything -%}
        union
        select distinct_id from {{ stored }}
        {%- elif stored -%}
        union
        select members.distinct_id
        from {{ stored }} as members
        where members.cluster_id in (
            select known.cluster_id
            from {{ stored }} as known
            where known.distinct_id in (select distinct_id from evident_ids)
        )
        {%- endif %}
    {%- endset -%}
    {%- do make_temporary_table('touched_ids', touched) -%}
    {#- Of all edges of a device the first one holds; the others do not bind. -#}
    {%- set links -%}
        select anonymous_id as from_id, identified_id as to_id
        from (
            select
                anonymous_id,
                identified_id,
                evidence,
                row_number() over (
                    partition by anonymous_id, evidence
                    order by first_seen_at, {{ in_binary_order('identified_id') }}
                ) as place
            from {{ edges }}
            where anonymous_id in (select distinct_id from touched_ids)
        ) as found
        where evidence <> 'device' or place = 1
    {%- endset -%}
    {%- do make_temporary_table('identity_links', links) -%}
    {%- do make_temporary_table('identity_labels', "select distinct_id, distinct_id as label from touched_ids") -%}
    {%- do join_clusters() -%}
    {%- do make_temporary_table('resolved_ids', chosen_ids(edges)) -%}
{% endmacro %}


{#
    Gives all ids that links connect one label: the smallest id among them. Each round hooks every
    label onto a smaller one beside it and shortens the way there, so that at least half of the
    labels of each cluster go: the rounds are as the logarithm of the largest cluster.
    (Shiloach and Vishkin, An O(log n) parallel connectivity algorithm, 1982)
#}
{% macro join_clusters() %}
    {%- set state = namespace(is_done=false) -%}
    {%- for round in range(64) if not state.is_done -%}
        {%- set open = run_query(
            "select count(*) from identity_links as links "
            ~ "inner join identity_labels as a on links.from_id = a.distinct_id "
            ~ "inner join identity_labels as b on links.to_id = b.distinct_id where a.label <> b.label"
        ).rows[0][0] -%}
        {%- if open == 0 -%}
            {%- set state.is_done = true -%}
        {%- else -%}
            {%- do adapter.dispatch('shorten_labels', 'mixpanel')() -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not state.is_done -%}
        {%- do exceptions.raise_compiler_error("Identities do not settle. Nothing was changed.") -%}
    {%- endif -%}
{% endmacro %}


{% macro default__shorten_labels() %}
    {%- call statement('join_clusters') -%}
        update identity_labels
        set label = smaller.label
        from (
            select greatest(a.label, b.label) as distinct_id, min(least(a.label, b.label)) as label
            from identity_links as links
            inner join identity_labels as a on links.from_id = a.distinct_id
            inner join identity_labels as b on links.to_id = b.distinct_id
            where a.label <> b.label
            group by greatest(a.label, b.label)
        ) as smaller
        where identity_labels.distinct_id = smaller.distinct_id and smaller.label < identity_labels.label;
        {% for jump in range(3) %}
        update identity_labels
        set label = further.label
        from identity_labels as further
        where identity_labels.label = further.distinct_id and identity_labels.label <> further.label;
        {% endfor %}
    {%- endcall -%}
{% endmacro %}


{#
    What the ids of each cluster resolve to: the first `$user_id`; where there is none, what Mixpanel
    itself exports the others under; else an id that somebody identified as, rather than a device.
#}
{% macro chosen_ids(edges) -%}
    select
        ranked.distinct_id,
        case
            when ranked.cluster_size > {{ var('max_cluster_ids') }} then ranked.distinct_id
            else first_value(ranked.distinct_id) over (
                partition by ranked.cluster_id
                order by ranked.preference, {{ in_binary_order('ranked.distinct_id') }}
            )
        end as resolved_distinct_id,
        ranked.cluster_id,
        ranked.cluster_size
    from (
        select
            labels.distinct_id,
            labels.label as cluster_id,
            count(*) over (partition by labels.label) as cluster_size,
            case
                when target.is_user then 1
                when target.is_rekeyed and source.is_rekeyed is not true then 2
                when target.is_rekeyed then 3
                when target.is_identified then 4
                when labels.distinct_id not like '$device:%' then 5
                else 6
            end as preference
        from identity_labels as labels
        left join (
            select
                identified_id,
                bool_or(evidence = 'device') as is_user,
                bool_or(evidence = 'rekeyed') as is_rekeyed,
                bool_or(evidence in ('identify', 'alias')) as is_identified
            from {{ edges }}
            where identified_id in (select distinct_id from identity_labels)
            group by identified_id
        ) as target
            on labels.distinct_id = target.identified_id
        left join (
            select
                anonymous_id,
                bool_or(evidence = 'rekeyed') as is_rekeyed
            from {{ edges }}
            where anonymous_id in (select distinct_id from identity_labels)
            group by anonymous_id
        ) as source
            on labels.distinct_id = source.anonymous_id
        -- Of what was touched, not all need be in evidence any more.
        where target.identified_id is not null or source.anonymous_id is not null
    ) as ranked
{%- endmacro %}


{#
    The ids that became another person's since `subscribers` looked. It lives beside the models, and
    must be as durable.
#}
{% macro identity_changes(relation) -%}
    {% do return(relation.incorporate(path={'identifier': 'identity_changes'}, type='table')) %}
{%- endmacro %}


{% macro open_identity_changes(changes) -%}
    create table if not exists {{ changes }} (
        distinct_id {{ dbt.type_string() }} not null,
        resolved_before {{ dbt.type_string() }} not null,
        resolved_after {{ dbt.type_string() }} not null
    )
{%- endmacro %}


{% macro enter_identity_changes(changes, stored) -%}
    insert into {{ changes }} (distinct_id, resolved_before, resolved_after)
    select
        resolved.distinct_id,
        coalesce(before.resolved_distinct_id, resolved.distinct_id),
        resolved.resolved_distinct_id
    from resolved_ids as resolved
    left join {{ stored }} as before
        on resolved.distinct_id = before.distinct_id
    where coalesce(before.resolved_distinct_id, resolved.distinct_id) <> resolved.resolved_distinct_id
{%- endmacro %}


{# Texts compared by their bytes, whatever the database's collation. #}
{% macro in_binary_order(text) -%}
    {{ adapter.dispatch('in_binary_order', 'mixpanel')(text) }}
{%- endmacro %}


{% macro default__in_binary_order(text) -%}
    {{ text }}
{%- endmacro %}


{% macro postgres__in_binary_order(text) -%}
    {{ text }} collate "C"
{%- endmacro %}
