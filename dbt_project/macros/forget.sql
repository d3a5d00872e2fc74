{#
    Removes everything of some ids, and enters their hashes among the suppressed ones, in one
    transaction: what was removed before its id is suppressed could come back.

    To be called by `run.py forget`, which keeps syncs away meanwhile. Logs what it finds as JSON.
#}
{% macro forget(ids, hashes, dry_run=false) %}
    {%- set events = ref('stg_mixpanel__events').render() -%}
    {%- set rejected = source('mixpanel', 'rejected_lines').render() -%}
    {%- do begin_removal() -%}
    {%- do make_temporary_table('forgotten_ids', literal_rows(ids, 'id')) -%}
    {%- set is_theirs = is_about_forgotten() -%}
    {%- set mentions_them -%}
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
    {%- endset -%}
    {%- set found = run_query(
        "select (select count(*) from " ~ events ~ " where " ~ is_theirs ~ "), "
        ~ "(select count(*) from " ~ rejected ~ " where " ~ mentions_them ~ "), "
        ~ "(select count(*) from " ~ ref('subscribers').render() ~ " where subscriber_id in (select id from forgotten_ids)), "
        ~ "(select count(*) from " ~ source('mixpanel', 'profiles').render() ~ " where distinct_id in (select id from forgotten_ids))"
    ).rows[0] -%}
    {%- if not dry_run -%}
        {%- do run_statement(
            "delete from " ~ source('mixpanel', 'rekeyed_ids').render()
            ~ " where distinct_id in (select id from forgotten_ids)"
            ~ " or distinct_id_before_identity in (select id from forgotten_ids)"
        ) -%}
        {%- do remove_from_models(
            is_theirs,
            "anonymous_id in (select id from forgotten_ids) or identified_id in (select id from forgotten_ids)"
        ) -%}
        {%- do run_statement("delete from " ~ rejected ~ " where " ~ mentions_them) -%}
        {%- for table in ['profiles', 'profile_history', 'cohort_members', 'swept_ids', 'ids_to_forget'] -%}
            {%- do run_statement(
                "delete from " ~ source('mixpanel', table).render() ~ " where distinct_id in (select id from forgotten_ids)"
            ) -%}
        {%- endfor -%}
        {%- do run_statement(
            "insert into " ~ source('mixpanel', 'suppressed_ids').render() ~ " (id_hash) "
            ~ "select id_hash from (" ~ literal_rows(hashes, 'id_hash') ~ ") as forgotten where id_hash not in "
            ~ "(select id_hash from " ~ source('mixpanel', 'suppressed_ids').render() ~ ")"
        ) -%}
        {%- do run_statement(
            "insert into " ~ source('mixpanel', 'forgotten').render()
            ~ " (forgotten_at, ids, events, rejected_lines, subscribers, profiles) values ("
            ~ dbt.current_timestamp() ~ ", " ~ ids | length ~ ", " ~ found[0] ~ ", " ~ found[1] ~ ", " ~ found[2] ~ ", " ~ found[3] ~ ")"
        ) -%}
    {%- endif -%}
    {%- do adapter.commit() -%}
    {%- do log(tojson({'events': found[0] | int, 'rejected_lines': found[1] | int, 'subscribers': found[2] | int, 'profiles': found[3] | int}), info=true) -%}
{% endmacro %}


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
