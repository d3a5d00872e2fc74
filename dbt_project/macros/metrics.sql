{#
    Names and texts of the declaration go into SQL as they are, line breaks included: nothing here
    is indented or trimmed afterwards, which would reach into them.
#}

{# Whether any metric uses the event. Without metrics every event is one to process. #}
{% macro is_tracked_event() -%}
    {%- if var('metrics') -%}
    event in (
        {#- `unique` folds case unless told not to, and Mixpanel's names differ by case. #}
        {%- for event in var('metrics').values() | map(attribute='event') | unique(case_sensitive=true) %}
            {{ text_literal(event) }}{{ ',' if not loop.last }}
        {%- endfor %}
        )
    {%- else -%}
    true
    {%- endif -%}
{%- endmacro %}


{# One column per declared metric, in the order of their declaration, each followed by a comma. #}
{% macro metric_columns() -%}
    {%- for name, metric in var('metrics').items() -%}
    {{ metric_expression(name, metric) }} as {{ adapter.quote(name) }},{{ '\n        ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}


{#
    What decides what is counted, as one text: the ledger keeps its hash. Databases hold hashes of
    this very form: changing it has everybody count everything again.
#}
{% macro metrics_definition() -%}
    {%- set columns = [] -%}
    {%- for name, metric in var('metrics').items() -%}
        {%- do columns.append(metric_expression(name, metric) ~ ' as ' ~ name) -%}
    {%- endfor -%}
    {%- do return(subscriber_id().split() | join(' ') ~ columns | join(', ')) -%}
{%- endmacro %}


{#
    Not `count(*) filter (…)`: there DuckDB reads the properties of every event, in a `case` only of
    those it is about.
#}
{% macro metric_expression(name, metric) -%}
    count( case when {{ metric_condition(name, metric) }} then 1 end ){{ ' > 0' if metric_is_flag(metric) }}
{%- endmacro %}


{#
    What the metrics of several rows are together, in the order of their declaration, each followed by
    a comma; of some only, if `names` says which.
#}
{% macro metric_sums(prefix='', names=none) -%}
    {%- for name, metric in var('metrics').items() if names is none or name in names -%}
    {%- set column = prefix ~ adapter.quote(name) -%}
    {{ 'bool_or(' ~ column ~ ')' if metric_is_flag(metric) else 'cast(sum(' ~ column ~ ') as bigint)' }} as {{ adapter.quote(name) }},{{ '\n    ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}


{% macro metric_is_flag(metric) -%}
    {% do return(metric.get('kind', 'count') == 'flag') %}
{%- endmacro %}


{# The column of a metric in sums: a flag is 1 or 0. #}
{% macro metric_as_number(name, metric) -%}
    {{ 'cast(' ~ adapter.quote(name) ~ ' as integer)' if metric_is_flag(metric) else adapter.quote(name) }}
{%- endmacro %}


{# `run.py` checks the declaration more closely, and says where it is wrong; dbt by hand only this. #}
{% macro metric_condition(name, metric) -%}
    {%- set known = ['event', 'where', 'unless', 'kind', 'description'] -%}
    {%- if metric is not mapping or 'event' not in metric or metric.keys() | reject('in', known) | list
        or metric.get('kind', 'count') not in ['count', 'flag'] -%}
        {%- do exceptions.raise_compiler_error(
            "The metric " ~ name ~ " is declared as " ~ metric ~ ": it takes `event`, and may take "
            ~ "`where` and `unless` (property: text), `kind` (count or flag) and `description`."
        ) -%}
    {%- endif -%}
    event = {{ text_literal(metric.event) }}
    {%- for property_name, text in metric.get('where', {}).items() %} and {{ property_contains(property_name, text) }}
    {%- endfor %}
    {%- for property_name, text in metric.get('unless', {}).items() %} and not {{ property_contains(property_name, text) }}
    {%- endfor %}
{%- endmacro %}


{# Jinja and the database agree on the lower case of ASCII alone. #}
{% macro property_contains(name, text) -%}
    {%- set text = text | string -%}
    {%- set part = text_literal(text | lower) if text.isascii() else 'lower(' ~ text_literal(text) ~ ')' -%}
    position( {{ part }} in lower(coalesce({{ property(name) }}, '')) ) > 0
{%- endmacro %}


{# A declared invariant as SQL: sums of metrics and numbers, compared. #}
{% macro invariant_condition(invariant) -%}
    {%- for token in modules.re.findall('[a-z_][a-z0-9_]*|[0-9]+|[<>]=|[^ ]', invariant) -%}
        {%- set metric = var('metrics').get(token) -%}
        {%- if metric -%}
            {{ metric_as_number(token, metric) }}
        {%- elif token == 'events_processed' or modules.re.fullmatch('[0-9]+|[<>]=|[-+=<>]', token) -%}
            {{ token }}
        {%- else -%}
            {%- do exceptions.raise_compiler_error(
                "The invariant `" ~ invariant ~ "` says `" ~ token ~ "`, which is no metric: it compares sums of "
                ~ "metrics, as in `total_copies = total_regular_copies + total_premium_copies`."
            ) -%}
        {%- endif -%}
        {{ ' ' if not loop.last }}
    {%- endfor %}
{%- endmacro %}


{# All that has to hold for a row of `subscribers`: pairs of what people are told and SQL. #}
{% macro subscriber_invariants() -%}
    {%- set invariants = [
        ('subscriber_id is not null', 'subscriber_id is not null'),
        ('events_processed > 0', 'events_processed > 0'),
        ('first_event_at <= last_event_at', 'first_event_at <= last_event_at'),
    ] -%}
    {%- for invariant in var('invariants', []) -%}
        {%- do invariants.append((invariant, invariant_condition(invariant))) -%}
    {%- endfor -%}
    {#- Counting only ever adds: a negative count would mean that a merge subtracted. -#}
    {%- for name, metric in var('metrics').items() if not metric_is_flag(metric) -%}
        {%- do invariants.append((name ~ ' >= 0', adapter.quote(name) ~ ' >= 0')) -%}
    {%- endfor -%}
    {#- No event was counted by a metric that was not processed. Metrics of one event may count the
        same events, those of different ones cannot. -#}
    {%- set by_event = {} -%}
    {%- for name, metric in var('metrics').items() -%}
        {%- do by_event.setdefault(metric.event, []).append(metric_as_number(name, metric)) -%}
    {%- endfor -%}
    {%- set processed = [] -%}
    {%- for amounts in by_event.values() -%}
        {%- do processed.append('greatest(' ~ amounts | join(', ') ~ ')' if amounts | length > 1 else amounts[0]) -%}
    {%- endfor -%}
    {%- if processed -%}
        {%- do invariants.append((
            'the metrics fit in events_processed', processed | join(' + ') ~ ' <= events_processed'
        )) -%}
    {%- endif -%}
    {%- do return(invariants) -%}
{%- endmacro %}
