{#
    Exactly once. A model that adds to what it stored must count every load once, whatever dies
    when. It keeps a ledger of the loads it counted, beside itself in the database:

    1. Its pre-hook, `claim_loads`, is the first write of the model's transaction. It enters the
       completed loads that the ledger does not have, under the name of this run (invocation_id).
    2. Its query reads the loads this run entered, `claimed_loads`, and no others.
    3. Its merge ends the transaction: claims and counts are stored together, or neither is.

    A rebuild (first run, --full-refresh) claims all loads again. So the query is the same for both
    and needs no `is_incremental()`.

    Reading a high-water mark from the target would lose loads that complete out of order; entering
    the loads after the merge would lose those that completed meanwhile.
#}
{% macro claim_loads(definition) %}
    {# `definition`: a text that decides what is counted. Counts of two definitions must not be added. #}
    {%- if execute -%}
        {%- set ledger = counted_loads(this) -%}
        {%- set model_name = text_literal(this.identifier) -%}
        {%- set definition_hash = text_literal(local_md5(definition)) -%}
        {%- set rebuild = not is_incremental() -%}

        {%- call statement('open_ledger') -%}
            {{ open_ledger(ledger) }}
        {%- endcall -%}
        {%- if not rebuild -%}
            {%- do check_ledger(ledger, model_name, definition_hash) -%}
        {%- elif not flags.EMPTY -%}
            {%- do check_events_are_loaded() -%}
        {%- endif -%}

        {%- if rebuild %}
            delete from {{ ledger }}
            where
                model = {{ model_name }}
                {% if not flags.EMPTY -%}
                and load_id not in ({{ completed_loads() }})
                {%- endif %};
        {%- endif %}
        {#- `dbt run --empty` builds the model without its events: none are counted, so none are claimed. -#}
        {%- if not flags.EMPTY %}
            insert into {{ ledger }} (model, load_id, invocation_id, definition_hash, counted_at)
            select distinct
                {{ model_name }},
                load_id,
                '{{ invocation_id }}',
                {{ definition_hash }},
                {{ dbt.current_timestamp() }}
            from ({{ completed_loads() }}) as completed
            on conflict (model, load_id)
            {% if rebuild -%}
                do update set
                    invocation_id = excluded.invocation_id,
                    definition_hash = excluded.definition_hash,
                    counted_at = excluded.counted_at
            {%- else -%}
                do nothing
            {%- endif %};
        {%- endif %}
        {%- if rebuild %}
            {{ adapter.dispatch('read_all_events')(ledger) }}
        {%- else %}
            {{ adapter.dispatch('look_loads_up')() }}
        {%- endif %}
    {%- endif -%}
{% endmacro %}


{# The loads that this run of this model counts. #}
{% macro claimed_loads() -%}
    {% if execute -%}
    select load_id
    from {{ counted_loads(this) }}
    where
        model = {{ text_literal(this.identifier) }}
        and invocation_id = '{{ invocation_id }}'
    {%- endif %}
{%- endmacro %}


{# The ledger of a model: it lives in the same schema and must be as durable as the model itself. #}
{% macro counted_loads(relation) -%}
    {% do return(relation.incorporate(path={'identifier': 'counted_loads'}, type='table')) %}
{%- endmacro %}


{% macro open_ledger(ledger) -%}
    {{ adapter.dispatch('lock_creation')(ledger) }}
    create table if not exists {{ ledger }} (
        model text not null,
        load_id text not null,
        invocation_id text not null,
        definition_hash text not null,
        counted_at timestamp with time zone not null,
        primary key (model, load_id)
    );
    {{ adapter.dispatch('lock_ledger')(ledger) }}
{%- endmacro %}


{# DuckDB lets one process write. #}
{% macro default__lock_creation(relation) %}{% endmacro %}


{% macro default__lock_ledger(ledger) %}{% endmacro %}


{% macro default__read_all_events(ledger) %}{% endmacro %}


{% macro default__look_loads_up() %}{% endmacro %}


{# What is stored cannot be added to when it is not known, or not the same, what it counts. #}
{% macro check_ledger(ledger, model_name, definition_hash) %}
    {%- set claims = run_query(
        "select count(*), "
        ~ "count(case when definition_hash <> " ~ definition_hash ~ " then 1 end), "
        ~ "count(case when load_id not in (" ~ completed_loads() ~ ") then 1 end), "
        ~ "exists (select 1 from " ~ this ~ ") "
        ~ "from " ~ ledger ~ " where model = " ~ model_name
    ).rows[0] -%}
    {%- if claims[3] and claims[0] == 0 -%}
        {%- set problem = "has rows but " ~ ledger ~ " does not say which loads they count" -%}
    {%- elif claims[1] > 0 -%}
        {%- set problem = "was counted by other metrics than those declared now" -%}
    {%- elif claims[2] > 0 -%}
        {%- set problem = "counts " ~ claims[2] ~ " loads that are no longer there" -%}
    {%- endif -%}
    {%- if problem -%}
        {%- set not_loaded = events_not_loaded() -%}
        {%- do exceptions.raise_compiler_error(
            this ~ " " ~ problem ~ ". Nothing was changed. "
            ~ ("Not loaded are " ~ not_loaded ~ ". " if not_loaded) ~ how_to_count_anew(not_loaded)
        ) -%}
    {%- endif -%}
{% endmacro %}
