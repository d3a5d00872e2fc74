{#
    Removes everything of some ids, and enters their hashes among the suppressed ones, in one
    transaction: what was removed before its id is suppressed could come back.

    To be called by `run.py forget`, which keeps syncs away meanwhile. Logs what it finds as JSON.
#}
{% macro forget(ids, hashes, dry_run=false) %}
    {%- do begin_removal() -%}
    {%- do make_temporary_table('forgotten_ids', literal_rows(ids, 'id')) -%}
    {%- set found = forgotten_in_models() -%}
    {%- do found.update(forgotten_in_record()) -%}
    {%- if not dry_run -%}
        {%- do forget_rekeyed() -%}
        {%- do forget_in_models() -%}
        {%- do forget_in_record(ids, hashes, found) -%}
    {%- endif -%}
    {%- do adapter.commit() -%}
    {%- do log(tojson(found), info=true) -%}
{% endmacro %}


{# What `forget` does with events alone, where no transaction holds the record as well. #}
{% macro forget_events(ids, dry_run=false) %}
    {%- do begin_removal() -%}
    {%- do make_temporary_table('forgotten_ids', literal_rows(ids, 'id')) -%}
    {%- set found = forgotten_in_models() -%}
    {%- if not dry_run -%}
        {%- do forget_in_models() -%}
    {%- endif -%}
    {%- do adapter.dispatch('end_operation', 'mixpanel')() -%}
    {%- do log(tojson(found), info=true) -%}
{% endmacro %}


{# And with the record alone; `found` is what `forget_events` logged. #}
{% macro forget_record(ids, found, dry_run=false) %}
    {%- call statement('begin') -%}
        {{ adapter.dispatch('begin_operation', 'mixpanel')() }}
    {%- endcall -%}
    {%- do make_temporary_table('forgotten_ids', literal_rows(ids, 'id')) -%}
    {%- do found.update(forgotten_in_record()) -%}
    {%- if not dry_run -%}
        {%- do forget_rekeyed() -%}
        {%- do forget_in_record(ids, [], found) -%}
    {%- endif -%}
    {%- do adapter.commit() -%}
    {%- do log(tojson(found), info=true) -%}
{% endmacro %}


{# How many events and subscribers are of `forgotten_ids`. #}
{% macro forgotten_in_models() -%}
    {%- set row = run_query(
        "select (select count(*) from " ~ ref('stg_mixpanel__events').render() ~ " where " ~ is_about_forgotten() ~ "), "
        ~ "(select count(*) from " ~ ref('subscribers').render() ~ " where subscriber_id in (select id from forgotten_ids))"
    ).rows[0] -%}
    {%- do return({'events': row[0] | int, 'subscribers': row[1] | int}) -%}
{%- endmacro %}


{# How many rejected lines and profiles are. #}
{% macro forgotten_in_record() -%}
    {%- set row = run_query(
        "select (select count(*) from " ~ source('mixpanel', 'rejected_lines').render() ~ " where " ~ mentions_forgotten() ~ "), "
        ~ "(select count(*) from " ~ source('mixpanel', 'profiles').render() ~ " where distinct_id in (select id from forgotten_ids))"
    ).rows[0] -%}
    {%- do return({'rejected_lines': row[0] | int, 'profiles': row[1] | int}) -%}
{%- endmacro %}


{% macro forget_rekeyed() %}
    {%- do run_statement(
        "delete from " ~ source('mixpanel', 'rekeyed_ids').render()
        ~ " where distinct_id in (select id from forgotten_ids)"
        ~ " or distinct_id_before_identity in (select id from forgotten_ids)"
    ) -%}
{% endmacro %}


{% macro forget_in_models() %}
    {%- do remove_from_models(
        is_about_forgotten(),
        "anonymous_id in (select id from forgotten_ids) or identified_id in (select id from forgotten_ids)"
    ) -%}
{% endmacro %}


{% macro forget_in_record(ids, hashes, found) %}
    {%- do run_statement("delete from " ~ source('mixpanel', 'rejected_lines').render() ~ " where " ~ mentions_forgotten()) -%}
    {%- for table in ['profiles', 'profile_history', 'cohort_members', 'swept_ids', 'ids_to_forget'] -%}
        {%- do run_statement(
            "delete from " ~ source('mixpanel', table).render() ~ " where distinct_id in (select id from forgotten_ids)"
        ) -%}
    {%- endfor -%}
    {%- if hashes -%}
        {%- do run_statement(
            "insert into " ~ source('mixpanel', 'suppressed_ids').render() ~ " (id_hash) "
            ~ "select id_hash from (" ~ literal_rows(hashes, 'id_hash') ~ ") as forgotten where id_hash not in "
            ~ "(select id_hash from " ~ source('mixpanel', 'suppressed_ids').render() ~ ")"
        ) -%}
    {%- endif -%}
    {%- do run_statement(
        "insert into " ~ source('mixpanel', 'forgotten').render()
        ~ " (forgotten_at, ids, events, rejected_lines, subscribers, profiles) values ("
        ~ dbt.current_timestamp() ~ ", " ~ ids | length ~ ", " ~ found.events ~ ", " ~ found.rejected_lines ~ ", "
        ~ found.subscribers ~ ", " ~ found.profiles ~ ")"
    ) -%}
{% endmacro %}


{# Whether a rejected line has one of the ids in it. #}
{% macro mentions_forgotten() -%}
    exists (
        select 1
        from forgotten_ids as forgotten
        where
            position('"' || forgotten.id || '"' in line) > 0
            {#- A number is spelled without quotes. `~` is about all of a text in DuckDB, and about a part in PostgreSQL. #}
            or (
                forgotten.id ~ '^-?[0-9][0-9.eE+-]*$'
                and line ~ ('(.|\n)*[:, \[]' || replace(replace(forgotten.id, '.', '[.]'), '+', '[+]') || '[],} ](.|\n)*')
            )
    )
{%- endmacro %}


{# Whether an event names one of the ids as whose it is, wherever. #}
{% macro is_about_forgotten() -%}
    (
        subscriber_id in (select id from forgotten_ids)
        or distinct_id in (select id from forgotten_ids)
        or '$device:' || {{ property('$device_id') }} in (select id from forgotten_ids)
        {% for name in [
            '$distinct_id', '$preshuffle_distinct_id', '$device_id', '$user_id', 'user_id', '$identified_id',
            'identified_id', '$anon_id', '$anon_distinct_id', 'alias', 'distinct_id', 'mp_original_distinct_id'
        ] -%}
        or {{ property(name) }} in (select id from forgotten_ids)
        {% endfor -%}
        {% for place in [0, 1] -%}
        or {{ property_item('$distinct_ids', place) }} in (select id from forgotten_ids)
        {% endfor -%}
    )
{%- endmacro %}


{% macro literal_rows(texts, name) -%}
    {% for text in texts -%}
    select {{ text_literal(text) }} as {{ name }}{{ ' union all ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}
