{#
    On Spark with Iceberg no transaction holds two statements, but each statement is one. So what a
    model counted stands in its own table, written by the statement that counted it:

    - `<model>__stored` has the model's rows and, with `_counted_load`, those of its ledger;
    - `<model>` is a view of its rows; `counted_loads` is a view of all ledgers.

    A run that died has counted and claimed, or neither. Of two runs at once the second one's MERGE
    finds files that it did not read (`isolation-level`) or claims that are there already, and
    fails; the next run counts what it lacked.
#}
{% materialization incremental, adapter='spark' -%}
    {%- set target = this.incorporate(type='view') -%}
    {%- set stored = mixpanel.spark__stored(this) -%}
    {%- set fresh = mixpanel.spark__scratch('fresh_' ~ this.identifier) -%}

    {{ run_hooks(pre_hooks) }}

    {%- set claims = run_query("select count(*), max(is_anew) from " ~ mixpanel.spark__claims(this)).rows[0] -%}
    {%- set anew = not mixpanel.is_incremental() or claims[1] == 1 -%}
    {%- set touched = config.meta_get('replace_touched') -%}
    {%- set is_touched = touched and run_query("select 1 from " ~ touched ~ " limit 1").rows | length > 0 -%}

    {%- if anew or claims[0] or is_touched -%}
        {%- call statement('fresh') -%}
            create or replace table {{ fresh }} using iceberg as
            {{ mixpanel.spark__with_claims(this, sql) }}
        {%- endcall -%}
        {%- set columns = adapter.get_columns_in_relation(fresh) -%}
        {%- if anew -%}
            {%- call statement('main') -%}
                {{ mixpanel.spark__rebuild(stored, fresh, columns) }}
            {%- endcall -%}
            {%- do mixpanel.spark__show(target, stored, columns) -%}
        {%- else -%}
            {%- set there = adapter.get_columns_in_relation(stored) | map(attribute='name') | list -%}
            {%- if there[:-3] | sort != columns | map(attribute='name') | sort -%}
                {%- do exceptions.raise_compiler_error(
                    target ~ " has other columns than the model. Nothing was changed; it has to be rebuilt."
                ) -%}
            {%- endif -%}
            {%- set strategy = adapter.get_incremental_strategy_macro(context, config.get('incremental_strategy') or 'default') -%}
            {%- call statement('main') -%}
                {{ strategy({
                    'target_relation': stored,
                    'temp_relation': fresh,
                    'unique_key': config.get('unique_key'),
                    'dest_columns': columns,
                    'incremental_predicates': config.get('incremental_predicates'),
                }) }}
            {%- endcall -%}
        {%- endif -%}
    {%- else -%}
        {%- call noop_statement('main', 'UNCHANGED', 'UNCHANGED') -%}
            {{ sql }}
        {%- endcall -%}
    {%- endif -%}

    {{ run_hooks(post_hooks) }}
    {{ return({'relations': [target, stored]}) }}
{%- endmaterialization %}


{# Where the rows of a model and of its ledger are. #}
{% macro spark__stored(relation) -%}
    {%- do return(relation.incorporate(path={'identifier': relation.identifier ~ '__stored'}, type='table')) -%}
{%- endmacro %}


{# A table of this run alone; the run's end drops it, or, if it dies, a run two days later. #}
{% macro spark__scratch(name) -%}
    {%- do return(api.Relation.create(
        schema=target.schema, identifier=name ~ mixpanel.spark__scratch_of_this_run(), type='table'
    )) -%}
{%- endmacro %}


{% macro spark__scratch_of_this_run() -%}
    {%- do return('__scratch_' ~ run_started_at.strftime('%Y%m%d') ~ '_' ~ invocation_id | replace('-', '')) -%}
{%- endmacro %}


{# Drops the tables whose names are as the pattern says, and whose day is before `before` if there is one. #}
{% macro spark__drop_scratch(pattern, before=none) %}
    {%- for row in run_query("show tables in " ~ target.schema ~ " like '" ~ pattern ~ "'").rows -%}
        {%- set day = row[1].rpartition('__scratch_')[2][:8] -%}
        {%- if before is none or day < before -%}
            {%- do mixpanel.run_statement("drop table if exists " ~ target.schema ~ "." ~ row[1] ~ " purge") -%}
        {%- endif -%}
    {%- endfor -%}
{% endmacro %}


{# The session's view of the loads that this run of a model counts. #}
{% macro spark__claims(relation) -%}
    {%- do return('claims_of_' ~ relation.identifier) -%}
{%- endmacro %}


{# The model is there already, and this run adds to it. #}
{% macro spark__is_incremental() -%}
    {%- do return(
        execute and model.config.materialized == 'incremental' and not should_full_refresh()
        and load_relation(mixpanel.spark__stored(this)) is not none
    ) -%}
{%- endmacro %}


{# Rows of the ledger for the claimed loads, among `columns`. #}
{% macro spark__ledger_rows(columns) -%}
    select
        {%- for column in columns %}
        cast(null as {{ column.dtype }}) as {{ column.quoted }},
        {%- endfor %}
        load_id as _counted_load,
        definition_hash as _definition_hash,
        current_timestamp() as _counted_at
    from {{ mixpanel.spark__claims(this) }}
{%- endmacro %}


{# What a model works out, and that it counts the claimed loads. #}
{% macro spark__rows_and_ledger(fresh, columns) -%}
    select
        {%- for column in columns %}
        {{ column.quoted }},
        {%- endfor %}
        cast(null as string) as _counted_load,
        cast(null as string) as _definition_hash,
        cast(null as timestamp) as _counted_at
    from {{ fresh }}
    union all
    {{ mixpanel.spark__ledger_rows(columns) }}
{%- endmacro %}


{#
    The model's rows and its ledger, in the place of all that was there. A MERGE copies the files that
    it changes, as is Iceberg's default: merge-on-read was no faster for few events among ten million,
    and leaves files to be merged.
#}
{% macro spark__rebuild(stored, fresh, columns) -%}
    create or replace table {{ stored }} using iceberg
    tblproperties (
        'format-version' = '2',
        'write.delete.isolation-level' = 'serializable',
        'write.update.isolation-level' = 'serializable',
        'write.merge.isolation-level' = 'serializable',
        'write.metadata.delete-after-commit.enabled' = 'true'
    ) as
    {{ mixpanel.spark__rows_and_ledger(fresh, columns) }}
{%- endmacro %}


{# The view of the model's rows, and that of all ledgers. #}
{% macro spark__show(target, stored, columns) %}
    {%- do mixpanel.run_statement(
        "create or replace view " ~ target ~ " as select " ~ columns | map(attribute='quoted') | join(', ')
        ~ " from " ~ stored ~ " where _counted_load is null"
    ) -%}
    {%- set ledgers = [] -%}
    {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.package_name == 'mixpanel'
        and node.config.materialized == 'incremental' -%}
        {%- set other = mixpanel.spark__stored(this.incorporate(path={'identifier': node.alias})) -%}
        {%- if other.identifier == stored.identifier or load_relation(other) -%}
            {%- do ledgers.append(
                "select " ~ mixpanel.text_literal(node.alias) ~ " as model, _counted_load as load_id, "
                ~ "_definition_hash as definition_hash, _counted_at as counted_at from " ~ other
                ~ " where _counted_load is not null"
            ) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do mixpanel.run_statement(
        "create or replace view " ~ mixpanel.counted_loads(this) ~ " as " ~ ledgers | join(' union all ')
    ) -%}
{% endmacro %}


{# What another model, or this one, counted. #}
{% macro spark__ledger(relation) -%}
    select
        _counted_load as load_id,
        _definition_hash as definition_hash,
        _counted_at as counted_at
    from {{ mixpanel.spark__stored(relation) }}
    where _counted_load is not null
{%- endmacro %}


{% macro spark__claim_loads(definition, counts_metrics, counts_anew) %}
    {%- if execute -%}
        {%- set definition_hash = local_md5(definition) -%}
        {%- set rebuild = not mixpanel.is_incremental() -%}
        {%- set problem = mixpanel.spark__ledger_problem(definition_hash) if not rebuild -%}
        {%- if problem and counts_anew -%}
            {#- Rows and ledger: whoever dies after this has counted nothing. -#}
            {%- do mixpanel.run_statement("delete from " ~ mixpanel.spark__stored(this)) -%}
            {%- set rebuild = true -%}
        {%- elif problem -%}
            {%- do mixpanel.refuse_to_add(this, problem) -%}
        {%- elif rebuild and counts_metrics and not flags.EMPTY -%}
            {%- do mixpanel.check_events_are_loaded() -%}
        {%- endif -%}
        {%- do mixpanel.spark__enter_claims(mixpanel.completed_loads(), definition_hash, rebuild) -%}
    {%- endif -%}
{% endmacro %}


{% macro spark__ledger_problem(definition_hash) %}
    {%- set claims = run_query(
        "select count(*), count(case when ledger.definition_hash <> '" ~ definition_hash ~ "' then 1 end), "
        ~ "count(case when loads.load_id is null then 1 end) "
        ~ "from (" ~ mixpanel.spark__ledger(this) ~ ") as ledger left join (select distinct load_id from ("
        ~ mixpanel.completed_loads() ~ ") as found) as loads on ledger.load_id = loads.load_id"
    ).rows[0] -%}
    {%- set is_unknown = claims[0] == 0 and run_query("select 1 from " ~ this ~ " limit 1").rows -%}
    {%- do return(mixpanel.problem_of_claims(mixpanel.spark__stored(this), is_unknown, claims[1], claims[2])) -%}
{% endmacro %}


{# Literals: whatever happens to the cluster meanwhile, what is counted and what is claimed are the same. #}
{% macro spark__enter_claims(loads, definition_hash, anew) %}
    {%- set ids = [] -%}
    {%- if not flags.EMPTY -%}
        {%- set known = "" if anew else " where load_id not in (select load_id from (" ~ mixpanel.spark__ledger(this) ~ ") as ledger)" -%}
        {%- set ids = run_query("select distinct load_id from (" ~ loads ~ ") as found" ~ known).columns[0].values() -%}
    {%- endif -%}
    {%- set rows = [] -%}
    {%- for id in ids -%}
        {%- do rows.append("('" ~ id ~ "', '" ~ definition_hash ~ "', " ~ (1 if anew else 0) ~ ")") -%}
    {%- endfor -%}
    {%- do mixpanel.run_statement(
        "create or replace temporary view " ~ mixpanel.spark__claims(this) ~ " as select * from values "
        ~ (rows | join(', ') or "('', '', 0)") ~ " as claims(load_id, definition_hash, is_anew)"
        ~ ("" if rows else " where false")
    ) -%}
{% endmacro %}


{% macro spark__claim_counted_loads(definition, others) %}
    {%- set definition_hash = local_md5(definition) -%}
    {%- set counted, rebuilt = [], [] -%}
    {%- for other in others -%}
        {%- do counted.append("select load_id from (" ~ mixpanel.spark__ledger(other) ~ ") as ledger_" ~ loop.index) -%}
        {%- do rebuilt.append("select min(counted_at) as rebuilt_at from (" ~ mixpanel.spark__ledger(other) ~ ") as ledger_" ~ loop.index) -%}
    {%- endfor -%}
    {%- set counted = counted | join(' intersect ') -%}
    {%- set everything = not mixpanel.is_incremental() -%}
    {%- if not everything -%}
        {%- set stored = run_query(
            "select count(*), count(case when ledger.definition_hash <> '" ~ definition_hash ~ "' then 1 end), "
            ~ "count(case when loads.load_id is null then 1 end), "
            ~ "coalesce(min(ledger.counted_at) < (select max(rebuilt_at) from (" ~ rebuilt | join(' union all ') ~ ") as rebuilds), false) "
            ~ "from (" ~ mixpanel.spark__ledger(this) ~ ") as ledger left join (" ~ counted ~ ") as loads on ledger.load_id = loads.load_id"
        ).rows[0] -%}
        {%- set everything = not stored[0] or stored[1] or stored[2] or stored[3] -%}
    {%- endif -%}
    {%- do mixpanel.spark__enter_claims(counted, definition_hash, everything) -%}
    {%- do return(true if everything else false) -%}
{% endmacro %}


{% macro spark__claimed_loads() -%}
    select load_id from {{ mixpanel.spark__claims(this) }}
{%- endmacro %}


{#
    A query with the claimed loads in the place of the query for them: by literals Iceberg knows which
    files to leave unread. A rebuild reads them all.
#}
{% macro spark__with_claims(relation, query) %}
    {%- set asked = "select load_id from " ~ mixpanel.spark__claims(relation) -%}
    {%- if asked in query -%}
        {%- set claims = run_query("select load_id, is_anew from " ~ mixpanel.spark__claims(relation)).rows -%}
        {%- if claims and not claims[0][1] -%}
            {%- set query = query | replace(asked, "'" ~ claims | map(attribute=0) | join("', '") ~ "'") -%}
        {%- endif -%}
    {%- endif -%}
    {%- do return(query) -%}
{% endmacro %}


{#
    One MERGE adds what is new and enters the claims. It fails on a claim that is there: another run
    has counted that load since this one looked.
#}
{% macro spark__get_incremental_merge_add_sql(arg_dict) %}
    {%- set columns, keys, rules = mixpanel.merge_add_arguments(arg_dict) -%}
    merge into {{ arg_dict['target_relation'] }} as stored
    using (
        {{ mixpanel.spark__rows_and_ledger(arg_dict['temp_relation'], columns) }}
    ) as added
        on {% for key in keys -%}
            stored.{{ adapter.quote(key) }} <=> added.{{ adapter.quote(key) }} and {% endfor -%}
            stored._counted_load <=> added._counted_load
    {{ mixpanel.spark__refuse_counted() }}
    when matched then update set
        {%- for column in columns if column.name not in keys %}
        {{ column.quoted }} = {{ mixpanel.merged_column(column, rules.get(column.name)) }}{{ ',' if not loop.last }}
        {%- endfor %}
    {{ mixpanel.spark__insert(columns) }}
{% endmacro %}


{# One MERGE has the rows that were worked out take the place of those of the touched keys, and enters the claims. #}
{% macro spark__get_incremental_replace_touched_sql(arg_dict) %}
    {%- set columns = arg_dict['dest_columns'] -%}
    {%- set key = adapter.quote(arg_dict['unique_key']) -%}
    merge into {{ arg_dict['target_relation'] }} as stored
    using (
        select
            touched.{{ key }} as _touched,
            {%- for column in columns %}
            fresh.{{ column.quoted }},
            {%- endfor %}
            cast(null as string) as _counted_load,
            cast(null as string) as _definition_hash,
            cast(null as timestamp) as _counted_at
        from (select distinct {{ key }} from {{ config.meta_get('replace_touched') }}) as touched
        left join {{ arg_dict['temp_relation'] }} as fresh
            on touched.{{ key }} = fresh.{{ key }}
        union all
        select
            null as _touched,
            ledger.*
        from (
            {{ mixpanel.spark__ledger_rows(columns) }}
        ) as ledger
    ) as added
        on stored.{{ key }} <=> added._touched and stored._counted_load <=> added._counted_load
    {{ mixpanel.spark__refuse_counted() }}
    when matched and added.{{ key }} is null then delete
    when matched then update set
        {%- for column in columns %}
        {{ column.quoted }} = added.{{ column.quoted }}{{ ',' if not loop.last }}
        {%- endfor %}
    {{ mixpanel.spark__insert(columns, "and (added." ~ key ~ " is not null or added._counted_load is not null)") }}
{% endmacro %}


{# What each load brings is rows of its own: only its claim could be there already. #}
{% macro spark__get_incremental_append_sql(arg_dict) %}
    {%- set columns = arg_dict['dest_columns'] -%}
    merge into {{ arg_dict['target_relation'] }} as stored
    using (
        {{ mixpanel.spark__rows_and_ledger(arg_dict['temp_relation'], columns) }}
    ) as added
        on stored._counted_load = added._counted_load
    {{ mixpanel.spark__refuse_counted() }}
    {{ mixpanel.spark__insert(columns) }}
{% endmacro %}


{% macro spark__refuse_counted() -%}
    when matched and stored._counted_load is not null then update set
        _counted_load = cast(raise_error('Another run has counted this load meanwhile. Nothing was changed; run again.') as string)
{%- endmacro %}


{% macro spark__insert(columns, condition='') -%}
    {%- set names = columns | map(attribute='quoted') | list + ['_counted_load', '_definition_hash', '_counted_at'] -%}
    when not matched {{ condition }} then insert
        ({{ names | join(', ') }})
    values
        (added.{{ names | join(', added.') }})
{%- endmacro %}


{#
    A table of its own, which the session sees by its bare name: what another run commits meanwhile,
    or the loss of a worker, changes nothing of it.
#}
{% macro spark__make_temporary_table(name, query) %}
    {%- set scratch = mixpanel.spark__scratch(name) -%}
    {%- set query = mixpanel.spark__with_claims(this, query) if this else query -%}
    {%- do mixpanel.run_statement("create or replace table " ~ scratch ~ " using iceberg as " ~ query) -%}
    {%- do mixpanel.run_statement("create or replace temporary view " ~ name ~ " as select * from " ~ scratch) -%}
{% endmacro %}


{#
    What stands in the catalog's database is seen beside the events, as views: the record of loads and
    runs, profiles, and what identity merges told. They are made anew when a column came; by the
    name of the last one is told of which columns they are, where whoever calls dbt says it.
#}
{% macro spark__check_dataset() %}
    {%- set raw = source('mixpanel', '_dlt_loads').schema -%}
    {%- set seen = 'seen_' ~ env_var('DESTINATION__SPARK__RECORD', '') -%}
    {%- set views = run_query("show views in " ~ raw).rows | map(attribute=1) | list -%}
    {%- if seen not in views or seen == 'seen_' -%}
        {%- for row in run_query("show tables in record." ~ raw).rows if row[1] != 'events' -%}
            {%- do mixpanel.run_statement("create or replace view " ~ raw ~ "." ~ row[1] ~ " as select * from record." ~ raw ~ "." ~ row[1]) -%}
        {%- endfor -%}
        {%- for name in views if name.startswith('seen_') -%}
            {%- do mixpanel.run_statement("drop view if exists " ~ raw ~ "." ~ name) -%}
        {%- endfor -%}
        {%- do mixpanel.run_statement("create or replace view " ~ raw ~ "." ~ seen ~ " as select 1 as seen") -%}
    {%- endif -%}
    {%- set yesterday = (run_started_at - modules.datetime.timedelta(days=1)).strftime('%Y%m%d') -%}
    {%- do mixpanel.spark__drop_scratch('*__scratch_*', before=yesterday) -%}
{% endmacro %}


{% macro spark__close() %}
    {%- do mixpanel.spark__drop_scratch('*' ~ mixpanel.spark__scratch_of_this_run()) -%}
{% endmacro %}


{# Tables and views, which Iceberg lists apart, without asking about each. #}
{% macro spark__list_relations_without_caching(relation) %}
    {%- set found = [] -%}
    {%- for kind, information in [('tables', 'Type: MANAGED\nProvider: iceberg\n'), ('views', 'Type: VIEW\n')] -%}
        {%- for row in run_query("show " ~ kind ~ " in " ~ relation.schema).rows if not row[2] -%}
            {%- do found.append((row[0], row[1], false, information)) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- do return(found) -%}
{% endmacro %}


{# A view of Spark's is a text, as DuckDB's is; it is built after the table that lost a column. #}
{% macro spark__release_metrics(view, identities) %}{% endmacro %}


{# Iceberg's comments are in its metadata, which each would write anew. #}
{% macro spark__describe() %}{% endmacro %}


{# What `subscribers` looks at, so that only that is forgotten once it is counted. #}
{% macro spark__look_at_identity_changes(changes) %}
    {%- do mixpanel.make_temporary_table('seen_identity_changes', "select * from " ~ changes) -%}
{% endmacro %}


{% macro spark__forget_identity_changes(changes) %}{% endmacro %}


{% macro spark__enter_counted_profiles(counted, before, now) %}
    {%- do mixpanel.run_statement("create or replace temporary view seen_profiles as select cast(" ~ now ~ " as bigint) as change_id") -%}
{% endmacro %}


{# After the MERGE of `subscribers`: whoever dies before this is counted once more, to the same. #}
{% macro spark__settle_touched() %}
    {%- if execute and not flags.EMPTY -%}
        {%- set changes = mixpanel.identity_changes(this) -%}
        {%- if run_query("select 1 from seen_identity_changes limit 1").rows -%}
            {%- do mixpanel.run_statement(
                "delete from " ~ changes ~ " as changes where exists (select 1 from seen_identity_changes as seen "
                ~ "where seen.distinct_id = changes.distinct_id and seen.resolved_before = changes.resolved_before "
                ~ "and seen.resolved_after = changes.resolved_after)"
            ) -%}
        {%- endif -%}
        {%- set counted = mixpanel.counted_profiles(this) -%}
        {%- set numbers = run_query(
            "select (select max(change_id) from seen_profiles), (select coalesce(max(change_id), -1) from " ~ counted ~ ")"
        ).rows[0] -%}
        {%- if numbers[0] != numbers[1] -%}
            {%- do mixpanel.run_statement("insert overwrite " ~ counted ~ " select change_id from seen_profiles") -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}


{# A round of `join_clusters`, without an `update … from`. #}
{% macro spark__shorten_labels() %}
    {%- set query -%}
        with labels_0 as (
            select
                labels.distinct_id,
                least(labels.label, smaller.label) as label
            from identity_labels as labels
            left join (
                select greatest(a.label, b.label) as distinct_id, min(least(a.label, b.label)) as label
                from identity_links as links
                inner join identity_labels as a on links.from_id = a.distinct_id
                inner join identity_labels as b on links.to_id = b.distinct_id
                where a.label <> b.label
                group by greatest(a.label, b.label)
            ) as smaller
                on labels.distinct_id = smaller.distinct_id
        )
        {%- for jump in range(3) %},
        labels_{{ jump + 1 }} as (
            select
                labels.distinct_id,
                coalesce(further.label, labels.label) as label
            from labels_{{ jump }} as labels
            left join labels_{{ jump }} as further
                on labels.label = further.distinct_id
        )
        {%- endfor %}
        select * from labels_3
    {%- endset -%}
    {%- do mixpanel.make_temporary_table('identity_labels', query) -%}
{% endmacro %}


{#
    In `$['…']` any name but one with an apostrophe or a question mark; those, and the empty one, are
    looked up among all.
#}
{% macro spark__property(name, column) -%}
    {%- if modules.re.fullmatch("[^'?\\\\*]+", name) -%}
    get_json_object({{ column }}, {{ mixpanel.text_literal("$['" ~ name ~ "']") }})
    {%- else -%}
    from_json({{ column }}, 'map<string,string>')[{{ mixpanel.text_literal(name) }}]
    {%- endif -%}
{%- endmacro %}


{% macro spark__property_item(name, place, column) -%}
    get_json_object({{ column }}, {{ mixpanel.text_literal("$['" ~ name ~ "'][" ~ place ~ "]") }})
{%- endmacro %}


{#
    JSON as it stands in the payload. Of an array's items each match is kept as it is, quotation marks
    of texts included, and of one match alone Spark takes the array away. Null for JSON null too, and
    where the name has an apostrophe or a question mark.
#}
{% macro spark__property_json(name, column) -%}
    get_json_object(concat('[', {{ column }}, ']'), {{ mixpanel.text_literal("$[*]['" ~ name ~ "']") }})
{%- endmacro %}


{% macro spark__property_json_type(name, column) -%}
    {{ mixpanel.spark__type_of_json(mixpanel.spark__property_json(name, column)) }}
{%- endmacro %}


{% macro spark__type_of_json(json) -%}
    case left({{ json }}, 1)
        when '"' then 'string'
        when 't' then 'boolean'
        when 'f' then 'boolean'
        when '[' then 'array'
        when '{' then 'object'
        else case when {{ json }} is not null then 'number' end
    end
{%- endmacro %}


{# A name that no path can hold has a text, unless it has null. #}
{% macro spark__expand_properties(events) -%}
    select
        event,
        occurred_at,
        property,
        coalesce({{ mixpanel.spark__type_of_json('value_json') }}, case when value_text is null then 'null' else 'string' end) as json_type,
        value_text
    from (
        select
            event,
            occurred_at,
            property,
            value_text,
            case
                when sign rlike '^["tf\\[{0-9-]' then sign
                {#- Reads all of the payload. #}
                when is_open then get_json_object(concat('[', properties, ']'), concat("$[*]['", property, "']"))
            end as value_json
        from (
            select
                *,
                {#- What the value begins with, of a name that is in the payload once, which escapes nothing. #}
                case
                    when
                        is_open
                        and instr(properties, '\\') = 0
                        and instr(properties, name) + length(name) - 1 + length(substring_index(properties, name, -1)) = length(properties)
                        and left(substring_index(properties, name, -1), 1) = ':'
                        then substr(substring_index(properties, name, -1), 2, 1)
                end as sign
            from (
                select
                    event,
                    occurred_at,
                    properties,
                    property,
                    value_text,
                    concat('"', property, '"') as name,
                    {#- Whether the text alone leaves open which type it is. #}
                    coalesce(left(value_text, 1) in ('-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '[', '{') or value_text in ('true', 'false'), false) as is_open
                from (
                    select
                        event,
                        occurred_at,
                        properties,
                        explode(from_json(properties, 'map<string,string>')) as (property, value_text)
                    from {{ events }}
                ) as items
            ) as named
        ) as begun
    ) as expanded
{%- endmacro %}


{# As numbers, unless examples come along: to find the smallest text, Spark would sort them all. #}
{% macro spark__smallest_hash(digits) -%}
    {%- if var('dictionary_examples') -%}
    {{ mixpanel.default__smallest_hash(digits) }}
    {%- else -%}
    lower(lpad(hex(min({{ mixpanel.hex_number(digits) }})), 13, '0'))
    {%- endif -%}
{%- endmacro %}


{% macro spark__hex_number(digits) -%}
    cast(conv({{ digits }}, 16, 10) as bigint)
{%- endmacro %}


{% macro spark__joined_in_order(text, place) -%}
    array_join(transform(array_sort(collect_list(struct({{ place }}, {{ text }}))), item -> item.{{ text }}), ', ')
{%- endmacro %}


{% macro spark__type_instant() -%}
    timestamp
{%- endmacro %}


{% macro spark__text_literal(text) -%}
    '{{ text | replace('\\', '\\\\') | replace("'", "\\'") | replace('\0', '\ufffd') }}'
{%- endmacro %}


{% macro spark__matches(text, pattern) -%}
    {{ text }} rlike {{ mixpanel.text_literal(pattern) }}
{%- endmacro %}


{% macro spark__type_double() -%}
    double
{%- endmacro %}


{% macro spark__seconds_between(earlier, later) -%}
    ((unix_micros({{ later }}) - unix_micros({{ earlier }})) / 1000000)
{%- endmacro %}


{% macro spark__days_between(earlier, later) -%}
    datediff({{ later }}, {{ earlier }})
{%- endmacro %}


{% macro spark__every_day(first, last) -%}
    select explode(sequence(first_date, last_date)) as event_date
    from (select ({{ first }}) as first_date, {{ last }} as last_date) as bounds
    where first_date <= last_date
{%- endmacro %}


{# The session's time zone is UTC: the profile sets it. #}
{% macro spark__utc_date(instant) -%}
    cast({{ instant }} as date)
{%- endmacro %}


{% macro spark__utc_midnight(day) -%}
    cast({{ day }} as timestamp)
{%- endmacro %}


{% macro spark__local_date(instant, timezone) -%}
    cast(from_utc_timestamp({{ instant }}, {{ timezone }}) as date)
{%- endmacro %}


{# Events alone: the models are rebuilt without them, which may be done again. #}
{% macro spark__remove_from_models(condition, other_evidence) %}
    {%- do mixpanel.make_temporary_table(
        'removed_events',
        "select event_key from " ~ ref('stg_mixpanel__events').render() ~ " where (" ~ condition ~ ")"
    ) -%}
    {%- do mixpanel.run_statement(
        "delete from " ~ source('mixpanel', 'events').render()
        ~ " where event_key in (select event_key from removed_events)"
    ) -%}
{% endmacro %}


{% macro spark__end_operation() %}
    {%- do mixpanel.spark__close() -%}
{% endmacro %}


{#
    Drops what no query can read any more, of all tables of ours.

    `older_than`: snapshots of before this instant, a text; `orphans_older_than`: files that no snapshot
        has, if told: those of a running commit are such, so Iceberg takes no time of the last day;
    `compacts`: whether small files are written anew as larger ones; `drops_scratch`: whether what
    builds made for themselves goes too, of those that were killed and of one that runs, which fails.
#}
{% macro spark_maintain(older_than, orphans_older_than=none, compacts=false, drops_scratch=false) %}
    {%- if drops_scratch -%}
        {%- do mixpanel.spark__drop_scratch('*__scratch_*') -%}
    {%- endif -%}
    {%- set procedures = env_var('DESTINATION__SPARK__CATALOG', 'lake') ~ '.system.' -%}
    {%- set raw = source('mixpanel', 'events').schema -%}
    {%- for schema in [raw, target.schema] -%}
        {%- for row in run_query("show tables in " ~ schema).rows -%}
            {%- set table = "table => '" ~ schema ~ "." ~ row[1] ~ "'" -%}
            {%- if compacts -%}
                {%- do run_query("call " ~ procedures ~ "rewrite_data_files(" ~ table ~ ")") -%}
            {%- endif -%}
            {%- do run_query("call " ~ procedures ~ "expire_snapshots(" ~ table ~ ", older_than => timestamp '" ~ older_than ~ "', retain_last => 1)") -%}
            {%- if orphans_older_than -%}
                {%- do run_query("call " ~ procedures ~ "remove_orphan_files(" ~ table ~ ", older_than => timestamp '" ~ orphans_older_than ~ "')") -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
{% endmacro %}
