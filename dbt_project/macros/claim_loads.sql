{#
    Exactly once. A model that adds to what it stored must count every load once, whatever dies
    when. It keeps a ledger of the loads it counted, beside itself in the database:

    1. Its pre-hook, `claim_loads`, is the first write of the model's transaction. It enters the
       completed loads that the ledger does not have, under the name of this run (invocation_id).
    2. Its query reads the loads this run entered, `claimed_loads`, and no others.
    3. Its merge ends the transaction: claims and counts are stored together, or neither is.

    Models that are built on such a model claim what it counted: see `claim_counted_loads`.

    A rebuild (first run, --full-refresh) claims all loads again. So the query is the same for both
    and needs no `is_incremental()`.

    Reading a high-water mark from the target would lose loads that complete out of order; entering
    the loads after the merge would lose those that completed meanwhile.
#}
{% macro claim_loads(definition, counts_metrics=false, counts_anew=false) %}
    {#
        `definition`: a text that decides what is counted. Counts of two definitions must not be added.
        `counts_metrics`: whether it would miss what was not asked for when a metric was declared later.
        `counts_anew`: whether it empties a table that cannot be added to, rather than refuse: where
            what is loaded is all that it could count.
    #}
    {{ adapter.dispatch('claim_loads', 'mixpanel')(definition, counts_metrics, counts_anew) }}
{% endmacro %}


{% macro default__claim_loads(definition, counts_metrics, counts_anew) %}
    {%- if execute -%}
        {%- set ledger = counted_loads(this) -%}
        {%- set model_name = text_literal(this.identifier) -%}
        {%- set definition_hash = text_literal(local_md5(definition)) -%}
        {%- set rebuild = not is_incremental() -%}

        {%- call statement('open_ledger') -%}
            {{ open_ledger(ledger) }}
        {%- endcall -%}
        {%- set problem = ledger_problem(ledger, model_name, definition_hash) if not rebuild -%}
        {%- if problem and counts_anew -%}
            {%- set rebuild = true -%}
            {%- do run_statement("delete from " ~ this) -%}
        {%- elif problem -%}
            {%- do refuse_to_add(this, problem) -%}
        {%- elif rebuild and counts_metrics and not flags.EMPTY -%}
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
            {{ enter_claims(ledger, model_name, definition_hash, completed_loads(), anew=rebuild) }};
        {%- endif %}
        {%- if rebuild %}
            {{ adapter.dispatch('read_all_events', 'mixpanel')(ledger) }}
        {%- else %}
            {{ adapter.dispatch('look_loads_up', 'mixpanel')() }}
        {%- endif %}
    {%- endif -%}
{% endmacro %}


{#
    For a model that works touched keys out anew from what other models counted: the loads that all
    of those counted and this one did not are this run's. Nothing is added to what is stored, so
    when in doubt it works out everything; returns whether it has to:

    - nothing is stored, or something of another `definition`;
    - one of the others was rebuilt since;
    - one of the loads is gone.
#}
{% macro claim_counted_loads(definition, others) %}
    {%- do return(adapter.dispatch('claim_counted_loads', 'mixpanel')(definition, others)) -%}
{% endmacro %}


{% macro default__claim_counted_loads(definition, others) %}
    {%- set ledger = counted_loads(this) -%}
    {%- set model_name = text_literal(this.identifier) -%}
    {%- set definition_hash = text_literal(local_md5(definition)) -%}
    {%- set counted, names = [], [] -%}
    {%- for other in others -%}
        {%- do names.append(text_literal(other.identifier)) -%}
        {%- do counted.append("select load_id from " ~ ledger ~ " where model = " ~ text_literal(other.identifier)) -%}
    {%- endfor -%}
    {%- set counted = counted | join(' intersect ') -%}

    {%- call statement('open_ledger') -%}
        {{ open_ledger(ledger) }}
    {%- endcall -%}
    {%- set stored = run_query(
        "select count(*), "
        ~ "count(case when definition_hash <> " ~ definition_hash ~ " then 1 end), "
        ~ "count(case when load_id not in (" ~ counted ~ ") then 1 end), "
        ~ "min(counted_at) < (select max(rebuilt_at) from ("
        ~ "select min(counted_at) as rebuilt_at from " ~ ledger ~ " where model in (" ~ names | join(', ') ~ ") group by model"
        ~ ") as rebuilds) "
        ~ "from " ~ ledger ~ " where model = " ~ model_name
    ).rows[0] -%}
    {%- set everything = not is_incremental() or not stored[0] or stored[1] or stored[2] or stored[3] -%}
    {%- if not flags.EMPTY -%}
        {%- call statement('claim') -%}
            {% if everything -%}
            delete from {{ ledger }} where model = {{ model_name }} and load_id not in ({{ counted }});
            {% endif -%}
            {{ enter_claims(ledger, model_name, definition_hash, counted, anew=everything) }};
        {%- endcall -%}
    {%- elif everything -%}
        {%- do run_statement("delete from " ~ ledger ~ " where model = " ~ model_name) -%}
    {%- endif -%}
    {%- set plan = adapter.dispatch('read_all_events', 'mixpanel')(ledger) if everything else adapter.dispatch('look_loads_up', 'mixpanel')() -%}
    {%- if plan | trim -%}
        {%- do run_statement(plan) -%}
    {%- endif -%}
    {%- do return(true if everything else false) -%}
{% endmacro %}


{# `anew`: whether claims of before are taken over as well. #}
{% macro enter_claims(ledger, model_name, definition_hash, loads, anew) -%}
    insert into {{ ledger }} (model, load_id, invocation_id, definition_hash, counted_at)
    select
        {{ model_name }},
        load_id,
        '{{ invocation_id }}',
        {{ definition_hash }},
        {{ claimed_at() }}
    {#- dlt may record a load twice. #}
    from (select distinct load_id from ({{ loads }}) as found) as loads
    on conflict (model, load_id)
    {% if anew -%}
        do update set
            invocation_id = excluded.invocation_id,
            definition_hash = excluded.definition_hash,
            counted_at = excluded.counted_at
    {%- else -%}
        do nothing
    {%- endif %}
{%- endmacro %}


{# The loads that this run of this model counts. #}
{% macro claimed_loads() -%}
    {#- For dbt's lineage; where the ledger is, the model's place says. -#}
    {%- do source('mixpanel_ledger', 'counted_loads') -%}
    {% if execute -%}
    {{ adapter.dispatch('claimed_loads', 'mixpanel')() }}
    {%- endif %}
{%- endmacro %}


{#
    DuckDB leaves out what holds no event of these loads, by the least and the greatest of their ids;
    of no ids there are none, and it would read all events: hence an id that no load has.
#}
{% macro default__claimed_loads() -%}
    select coalesce(claims.load_id, '') as load_id
    from (select 1 as one) as always
    left join {{ counted_loads(this) }} as claims
        on
            claims.model = {{ text_literal(this.identifier) }}
            and claims.invocation_id = '{{ invocation_id }}'
{%- endmacro %}


{# dbt's own, where the table that a model adds to has its name. #}
{% macro is_incremental() %}
    {%- do return(adapter.dispatch('is_incremental', 'mixpanel')()) -%}
{% endmacro %}


{% macro default__is_incremental() %}
    {%- do return(dbt.is_incremental()) -%}
{% endmacro %}


{# The ledger of a model: it lives in the same schema and must be as durable as the model itself. #}
{% macro counted_loads(relation) -%}
    {% do return(relation.incorporate(path={'identifier': 'counted_loads'}, type='table')) %}
{%- endmacro %}


{% macro open_ledger(ledger) -%}
    {{ adapter.dispatch('lock_creation', 'mixpanel')(ledger) }}
    create table if not exists {{ ledger }} (
        model text not null,
        load_id text not null,
        invocation_id text not null,
        definition_hash text not null,
        counted_at timestamp with time zone not null,
        primary key (model, load_id)
    );
    {{ adapter.dispatch('lock_ledger', 'mixpanel')(ledger) }}
{%- endmacro %}


{# When claims are entered; what waited for the ledger is later than what it waited for. #}
{% macro claimed_at() -%}
    {{ adapter.dispatch('claimed_at', 'mixpanel')() }}
{%- endmacro %}


{% macro default__claimed_at() -%}
    {{ dbt.current_timestamp() }}
{%- endmacro %}


{# DuckDB lets one process write. #}
{% macro default__lock_creation(relation) %}{% endmacro %}


{% macro default__lock_ledger(ledger) %}{% endmacro %}


{% macro default__read_all_events(ledger) %}{% endmacro %}


{% macro default__look_loads_up() %}{% endmacro %}


{# Why what is stored cannot be added to: it is not known, or not the same, what it counts. #}
{% macro ledger_problem(ledger, model_name, definition_hash) %}
    {%- set claims = run_query(
        "select count(*), "
        ~ "count(case when definition_hash <> " ~ definition_hash ~ " then 1 end), "
        ~ "count(case when load_id not in (" ~ completed_loads() ~ ") then 1 end), "
        ~ "exists (select 1 from " ~ this ~ ") "
        ~ "from " ~ ledger ~ " where model = " ~ model_name
    ).rows[0] -%}
    {%- do return(problem_of_claims(ledger, claims[3] and claims[0] == 0, claims[1], claims[2])) -%}
{% endmacro %}


{#
    `is_unknown`: whether there are rows and no claims; `redefined`, `lost`: how many claims are of
    another definition, and of loads that are gone.
#}
{% macro problem_of_claims(ledger, is_unknown, redefined, lost) %}
    {%- if is_unknown -%}
        {%- do return("has rows but " ~ ledger ~ " does not say which loads they count") -%}
    {%- elif redefined > 0 -%}
        {%- do return("was built by another declaration than the one of now") -%}
    {%- elif lost > 0 -%}
        {%- do return("counts " ~ lost ~ " loads that are no longer there") -%}
    {%- endif -%}
{% endmacro %}


{% macro refuse_to_add(model, problem) %}
    {%- set not_loaded = events_not_loaded() -%}
    {%- do exceptions.raise_compiler_error(
        model ~ " " ~ problem ~ ". Nothing was changed. "
        ~ ("Not loaded are " ~ not_loaded ~ ". " if not_loaded) ~ how_to_count_anew(not_loaded)
    ) -%}
{% endmacro %}
