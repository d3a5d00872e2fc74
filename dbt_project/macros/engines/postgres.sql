{#
    On PostgreSQL, analysts' views and grants hang on a relation, not on its name. dbt's own
    materializations build another relation and drop the old one with `cascade`, under a lock that
    waits for every reader while new ones wait behind it. These fill and replace in place, lock
    nothing that readers need unless something changed, and never cascade.
#}
{% materialization view, adapter='postgres' -%}
    {%- set target = this.incorporate(type='view') -%}
    {%- set wanted = postgres__temporary_view(target) -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- call statement('lock_creation') -%}
        {{ postgres__lock_creation(target) }}
    {%- endcall -%}
    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- set stored = postgres__columns(target) -%}
    {%- do run_query("create temporary view " ~ wanted ~ " as (\n" ~ sql ~ "\n)") -%}
    {%- set columns = postgres__columns(wanted) -%}
    {%- set kept = stored | select('in', columns) | list -%}
    {%- set query = sql -%}
    {%- set retyped = stored | reject('in', columns) | map(attribute=0) | select('in', columns | map(attribute=0) | list) | list -%}
    {%- if kept != stored and not retyped and config.meta_get('keeps_columns') -%}
        {#- What others built on it reads on: null, where it was of a metric that is gone. -#}
        {%- set query = postgres__with_columns(sql, columns, stored) -%}
        {%- do run_query("drop view " ~ wanted ~ "; create temporary view " ~ wanted ~ " as (\n" ~ query ~ "\n)") -%}
        {%- set columns = postgres__columns(wanted) -%}
        {%- set kept = stored -%}
    {%- endif -%}
    {%- if stored and kept == stored and columns[:stored | length] != stored -%}
        {#- A view takes new columns at its end only. -#}
        {%- set ordered = stored + (columns | reject('in', stored) | list) -%}
        {%- set query = "select " ~ postgres__names(ordered) ~ " from (\n" ~ sql ~ "\n) as wanted" -%}
        {%- do run_query("drop view " ~ wanted ~ "; create temporary view " ~ wanted ~ " as (\n" ~ query ~ "\n)") -%}
    {%- endif -%}

    {%- if not stored -%}
        {%- call statement('main') -%}
            create view {{ target }} as (
                {{ query }}
            )
        {%- endcall -%}
    {%- elif kept != stored -%}
        {%- call statement('main') -%}
            {{ postgres__patiently(target, postgres__recreate_view(target, query)) }}
        {%- endcall -%}
    {%- elif postgres__definition(target) != postgres__definition(wanted) -%}
        {%- call statement('main') -%}
            {{ postgres__patiently(target, "create or replace view " ~ target ~ " as (\n" ~ query ~ "\n)") }}
        {%- endcall -%}
    {%- else -%}
        {%- call noop_statement('main', 'UNCHANGED', 'UNCHANGED') -%}
            {{ query }}
        {%- endcall -%}
    {%- endif -%}
    {%- do run_query("drop view " ~ wanted) -%}

    {%- do apply_grants(target, config.get('grants'), should_revoke=True) -%}
    {%- do persist_docs(target, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do adapter.commit() -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target]}) }}
{%- endmaterialization %}


{#
    A rebuild deletes and inserts: readers read on, what was there before, until it commits.
    `truncate` would wait for them, and they for it, and takes as long with the index in place.
#}
{% materialization incremental, adapter='postgres' -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set fresh = make_temp_relation(target) -%}
    {%- set rebuild = not is_incremental() -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- call statement('fresh') -%}
        {{ get_create_table_as_sql(True, fresh, sql) }}
    {%- endcall -%}
    {#- Asked now: another run may have created it while the pre-hook waited. -#}
    {%- set stored = postgres__columns(target) -%}
    {%- set columns = postgres__columns(fresh) -%}
    {%- set names = postgres__names(columns) -%}
    {%- set gone = stored | reject('in', columns) | list -%}
    {%- set added = columns | reject('in', stored) | list -%}

    {%- if stored and (gone or added) and not rebuild and config.get('on_schema_change') == 'fail' -%}
        {%- do exceptions.raise_compiler_error(
            target ~ " has other columns than the model. Nothing was changed; it has to be rebuilt."
        ) -%}
    {%- endif -%}
    {%- if not stored -%}
        {%- do run_query("create table " ~ target ~ " (like " ~ fresh ~ ")") -%}
    {%- elif gone or added -%}
        {%- set changes = [] -%}
        {%- for name, type in gone -%}{%- do changes.append("drop column " ~ adapter.quote(name)) -%}{%- endfor -%}
        {%- for name, type in added -%}{%- do changes.append("add column " ~ adapter.quote(name) ~ " " ~ type) -%}{%- endfor -%}
        {%- do run_query(postgres__patiently(target, "alter table " ~ target ~ " " ~ changes | join(', '))) -%}
    {%- endif -%}
    {%- for column in config.meta_get('hash_indexes', [config.get('unique_key')]) -%}
        {%- do postgres__index_by_hash(target, column) -%}
    {%- endfor -%}
    {#- A hash index is slow where many rows have one value. -#}
    {%- for columns in config.meta_get('indexes', []) -%}
        {%- set columns = [columns] if columns is string else columns -%}
        {%- set index = adapter.quote(target.identifier ~ '_' ~ columns | join('_')) -%}
        {%- set quoted = [] -%}
        {%- for column in columns -%}{%- do quoted.append(adapter.quote(column)) -%}{%- endfor -%}
        {%- do run_query("create index if not exists " ~ index ~ " on " ~ target ~ " (" ~ quoted | join(', ') ~ ")") -%}
    {%- endfor -%}

    {%- do run_query(postgres__plan_as_usual(fresh)) -%}

    {%- call statement('main') -%}
        {%- if rebuild -%}
            delete from {{ target }};
            insert into {{ target }} ({{ names }})
            select {{ names }} from {{ fresh }}
        {%- else -%}
            {%- set strategy = adapter.get_incremental_strategy_macro(
                context, config.get('incremental_strategy') or 'default'
            ) -%}
            {{ strategy({
                'target_relation': target,
                'temp_relation': fresh,
                'unique_key': config.get('unique_key'),
                'dest_columns': adapter.get_columns_in_relation(fresh),
                'incremental_predicates': config.get('incremental_predicates'),
            }) }}
        {%- endif -%}
    {%- endcall -%}
    {%- do run_query("drop table " ~ fresh) -%}

    {%- do apply_grants(target, config.get('grants'), should_revoke=True) -%}
    {%- do persist_docs(target, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do adapter.commit() -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target]}) }}
{%- endmaterialization %}


{% macro postgres__temporary_view(target) -%}
    {%- do return('pg_temp."' ~ target.identifier ~ '__wanted"') -%}
{%- endmacro %}


{# Its columns as (name, type), in their order; none if it does not exist. #}
{% macro postgres__columns(relation) -%}
    {%- set found = run_query(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        ~ "where attrelid = to_regclass(" ~ text_literal(postgres__name(relation)) ~ ") "
        ~ "and attnum > 0 and not attisdropped order by attnum"
    ) -%}
    {%- set columns = [] -%}
    {%- for row in found.rows -%}{%- do columns.append((row[0], row[1])) -%}{%- endfor -%}
    {%- do return(columns) -%}
{%- endmacro %}


{% macro postgres__stored_descriptions(relation, kind) -%}
    select
        attname,
        col_description(attrelid, attnum)
    from pg_attribute
    where
        attrelid = {{ text_literal(postgres__name(relation)) }}::regclass
        and attnum > 0
        and not attisdropped
    union all
    select
        null,
        obj_description({{ text_literal(postgres__name(relation)) }}::regclass, 'pg_class')
{%- endmacro %}


{% macro postgres__names(columns) -%}
    {%- for column in columns -%}{{ adapter.quote(column[0]) }}{{ ', ' if not loop.last }}{%- endfor -%}
{%- endmacro %}


{# Of a relation, or of one that is named already. #}
{% macro postgres__name(relation) -%}
    {%- do return(relation if relation is string else relation.include(database=false) | string) -%}
{%- endmacro %}


{#
    The query `sql`, which has `columns`, with those of `stored` first, in their order: null where
    it has none of the name and type. Both are pairs of a name and a type.
#}
{% macro postgres__with_columns(sql, columns, stored) -%}
    select
        {%- for name, type in stored %}
        {{ adapter.quote(name) if (name, type) in columns else 'cast(null as ' ~ type ~ ') as ' ~ adapter.quote(name) }}{{ ',' if not loop.last }}
        {%- endfor %}
        {%- for name, type in columns if name not in stored | map(attribute=0) | list %},
        {{ adapter.quote(name) }}
        {%- endfor %}
    from (
        {{ sql }}
    ) as wanted
{%- endmacro %}


{% macro postgres__release_metrics(view, identities) %}
    {%- set stored = postgres__columns(view) -%}
    {%- set left = [] -%}
    {%- for name, metric in var('metrics').items()
        if (name, 'boolean' if metric_is_flag(metric) else 'bigint') in stored -%}
        {%- do left.append(name) -%}
    {%- endfor -%}
    {%- set own = ['subscriber_id', 'events_processed'] -%}
    {%- set lost = stored | select('in', postgres__columns(this)) | rejectattr(0, 'in', left + own) | list -%}
    {%- if lost -%}
        {%- set wanted = postgres__temporary_view(view) -%}
        {%- set query = metrics_by_window(this, identities, left) -%}
        {%- do run_query("create temporary view " ~ wanted ~ " as (\n" ~ query ~ "\n)") -%}
        {%- set query = postgres__with_columns(query, postgres__columns(wanted), stored) -%}
        {%- do run_query("drop view " ~ wanted) -%}
        {{ postgres__patiently(view, "create or replace view " ~ view ~ " as (\n" ~ query ~ "\n)") }}
    {%- endif -%}
{% endmacro %}


{% macro postgres__definition(view) -%}
    {%- do return(run_query(
        "select pg_get_viewdef(" ~ text_literal(postgres__name(view)) ~ "::regclass)"
    ).rows[0][0]) -%}
{%- endmacro %}


{#
    Runs a statement that no reader may be beside. It waits a second at a time, because new readers
    wait behind it, and lets them pass between.
#}
{% macro postgres__patiently(relation, statement) -%}
    do $patiently$
    declare
        before text := current_setting('lock_timeout');
        who text;
    begin
        for attempt in 1 .. 10 loop
            begin
                perform set_config('lock_timeout', '1s', true);
                execute $statement$ {{ statement }} $statement$;
                perform set_config('lock_timeout', before, true);
                return;
            exception
                when dependent_objects_still_exist then
                    get stacked diagnostics who = pg_exception_detail;
                    raise exception '% has to lose what others are built on (%). Nothing was changed; drop what is built on it, sync, and create it again.',
                        {{ text_literal(postgres__name(relation)) }}, replace(who, E'\n', '; ');
                when lock_not_available then
                    select string_agg(format('process %s of %s, %s', pid, usename, application_name), '; ')
                    into who
                    from pg_stat_activity
                    where
                        pid <> pg_backend_pid()
                        and pid in (
                            select pid
                            from pg_locks
                            where
                                granted
                                and relation = to_regclass({{ text_literal(postgres__name(relation)) }})
                        );
                    perform pg_sleep(1);
            end;
        end loop;
        raise exception '% has to change, but somebody holds it in an open transaction (%). Nothing was changed; end that transaction and sync again.',
            {{ text_literal(postgres__name(relation)) }}, who;
    end
    $patiently$
{%- endmacro %}


{#
    A view that loses a column, or whose column has another type, cannot be replaced. The models
    that are built on it go with it and come back, grants included; what others built on it refuses.
#}
{% macro postgres__recreate_view(target, query) -%}
    {%- set ours = ["''"] -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.schema == target.schema -%}
        {%- do ours.append(text_literal(node.alias)) -%}
    {%- endfor -%}
    do $recreate$
    declare
        kept jsonb;
        others text;
        item jsonb;
    begin
        with recursive hanging as (
            select {{ text_literal(postgres__name(target)) }}::regclass::oid as oid, 0 as depth
            union
            select pg_rewrite.ev_class, hanging.depth + 1
            from hanging
            inner join pg_depend on pg_depend.refobjid = hanging.oid
            inner join pg_rewrite on pg_rewrite.oid = pg_depend.objid and pg_rewrite.ev_class <> hanging.oid
            where pg_depend.classid = 'pg_rewrite'::regclass and pg_depend.refclassid = 'pg_class'::regclass
        )
        select
            string_agg(pg_class.oid::regclass::text, ', ') filter (where not found.is_ours),
            jsonb_agg(jsonb_build_object(
                'name', format('%I.%I', pg_namespace.nspname, pg_class.relname),
                'query', pg_get_viewdef(pg_class.oid),
                'grants', (
                    select string_agg(
                        format(
                            'grant %s on %I.%I to %s%s;',
                            privilege_type,
                            pg_namespace.nspname,
                            pg_class.relname,
                            case grantee when 0 then 'public' else grantee::regrole::text end,
                            case when is_grantable then ' with grant option' end
                        ),
                        ' '
                    )
                    from aclexplode(pg_class.relacl)
                    where grantee <> pg_class.relowner
                )
            ) order by found.depth)
        into others, kept
        from (
            select
                hanging.oid,
                max(hanging.depth) as depth,
                bool_and(
                    pg_class.relkind = 'v'
                    and pg_class.relnamespace::regnamespace::text = {{ text_literal(target.schema) }}
                    and pg_class.relname in ({{ ours | join(', ') }})
                ) as is_ours
            from hanging
            inner join pg_class on hanging.oid = pg_class.oid
            group by hanging.oid
        ) as found
        inner join pg_class on found.oid = pg_class.oid
        inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid;

        if others is not null then
            raise exception using
                errcode = 'dependent_objects_still_exist', message = 'others depend on it', detail = others;
        end if;
        for item in select value from jsonb_array_elements(kept) with ordinality order by ordinality desc loop
            execute format('drop view %s', item ->> 'name');
        end loop;
        create view {{ target.include(database=false) }} as (
            {{ query }}
        );
        execute coalesce(kept -> 0 ->> 'grants', '');
        for item in select value from jsonb_array_elements(kept - 0) loop
            begin
                execute format('create view %s as %s', item ->> 'name', item ->> 'query');
                execute coalesce(item ->> 'grants', '');
            exception when undefined_column or undefined_function or datatype_mismatch then
                -- It changes as well, and its own turn comes.
                null;
            end;
        end loop;
    end
    $recreate$
{%- endmacro %}


{#
    The index that the merge finds its rows by: of their hashes, because PostgreSQL's other indexes
    cannot hold an id of more than 2,700 bytes. Those that a table has of before go.
#}
{% macro postgres__index_by_hash(target, key) -%}
    {%- set found = run_query(
        "select index.oid::regclass::text, pg_am.amname from pg_index "
        ~ "inner join pg_class as index on pg_index.indexrelid = index.oid "
        ~ "inner join pg_am on index.relam = pg_am.oid "
        ~ "inner join pg_attribute on pg_index.indrelid = pg_attribute.attrelid "
        ~ "and pg_index.indkey::text = pg_attribute.attnum::text "
        ~ "where pg_index.indrelid = to_regclass(" ~ text_literal(postgres__name(target)) ~ ") "
        ~ "and pg_attribute.attname = " ~ text_literal(key)
        ~ " and (pg_am.amname = 'hash' or pg_index.indisunique)"
    ).rows -%}
    {%- if 'hash' not in found | map(attribute=1) | list -%}
        {%- do run_query("create index on " ~ target ~ " using hash (" ~ adapter.quote(key) ~ ")") -%}
    {%- endif -%}
    {%- for name, method in found if method != 'hash' -%}
        {%- do run_query(postgres__patiently(target, "drop index " ~ name)) -%}
    {%- endfor -%}
{%- endmacro %}


{# Two runs at once would both create it, `if not exists` or not; the second waits here. #}
{% macro postgres__lock_creation(relation) -%}
    select pg_advisory_xact_lock(hashtext('build of ' || {{ text_literal(relation | string) }}));
{%- endmacro %}


{# Two runs at once would both see a load unclaimed; the second waits here until the first committed. #}
{% macro postgres__lock_ledger(ledger) -%}
    lock table {{ ledger }} in share row exclusive mode;
{%- endmacro %}


{# `now()` is when the transaction began, before it waited. #}
{% macro postgres__claimed_at() -%}
    clock_timestamp()
{%- endmacro %}


{% macro postgres__claimed_loads() -%}
    select load_id
    from {{ counted_loads(this) }}
    where
        model = {{ text_literal(this.identifier) }}
        and invocation_id = '{{ invocation_id }}'
{%- endmacro %}


{#
    PostgreSQL would take the claims for one row and look up each load by itself: minutes, not
    seconds. And it cannot know how many subscribers there are: guessing a tenth of the events, it
    would sort those, payloads included, on disk. Until the transaction ends.
#}
{% macro postgres__read_all_events(ledger) -%}
    analyze {{ ledger }};
    set local enable_sort = off;
{%- endmacro %}


{#
    While the loads are few and large, PostgreSQL would rather read all events than look up the new
    ones; and its costs, raised by that, would make it compile the query. Until the transaction ends.
#}
{% macro postgres__look_loads_up() -%}
    set local enable_seqscan = off;
    set local jit = off;
{%- endmacro %}


{#
    What was said of how to read events is not meant for what is made of them: of an id that most rows
    have, PostgreSQL would look up all of those for each row.
#}
{% macro postgres__plan_as_usual(fresh) -%}
    analyze {{ fresh }};
    set local enable_sort to default;
    set local enable_seqscan to default;
{%- endmacro %}


{#
    Before an operation dbt ends a transaction in a way that psycopg2 does not see, so that neither
    of them begins the next one.
#}
{% macro postgres__begin_operation() -%}
    begin
{%- endmacro %}


{# Of an interval: instants one by one are taken apart into exact decimals, which takes longer. #}
{% macro postgres__seconds_between(earlier, later) -%}
    date_part('epoch', {{ later }} - {{ earlier }})
{%- endmacro %}


{#
    Each payload is read once: whatever is asked of `properties ->> …` outside would read it again.
    And few rows leave the processes that read events side by side.
#}
{% macro postgres__devices_of_users(events, condition) -%}
    select
        told."$device_id" as device_id,
        told."$user_id" as user_id,
        min(occurred_at) as occurred_at,
        min(_dlt_load_id) as _dlt_load_id
    from {{ events }} as events
    cross join lateral json_to_record(cast(events.properties as json)) as told ("$device_id" text, "$user_id" text)
    where
        {{ condition }}
        and told."$device_id" <> ''
        and told."$user_id" <> ''
    group by 1, 2
{%- endmacro %}
