{#
    Events are loaded by name. Those of a metric that was declared later are not there for the days
    before, and counting what is there would pass for counting all: so a model that counts anew asks
    here first.

    Returns a text that names the events of metrics and the days that were loaded without them;
    an empty one when there are none, or when no run is recorded.
#}
{% macro events_not_loaded() %}
    {%- set problems = [] -%}
    {%- set recorded = load_relation(source('mixpanel', 'sync_runs')) -%}
    {%- if recorded and 'event_names' in adapter.get_columns_in_relation(recorded) | map(attribute='name') -%}
        {#- An audit loads single days again, of those that are loaded. -#}
        {%- set runs = run_query(
            "select mode, cursor_column, event_names, from_date, to_date, loaded_to_date, watermark_before from "
            ~ recorded ~ " where mode <> 'audit' and event_names is not null and from_date is not null"
            ~ " and loaded_to_date is not null order by id"
        ).rows -%}
        {%- set names_asked = {'all': none} -%}
        {%- for run in runs if run['event_names'] not in names_asked -%}
            {%- do names_asked.update({run['event_names']: set(fromjson(run['event_names']))}) -%}
        {%- endfor -%}
        {%- for event in var('metrics').values() | map(attribute='event') | unique(case_sensitive=true) -%}
            {%- set missing = set([]) -%}
            {%- for run in runs -%}
                {%- set names = names_asked[run['event_names']] -%}
                {%- set day_of = modules.datetime.date.fromisoformat -%}
                {%- set first, last = day_of(run['from_date'] | string).toordinal(), day_of(run['loaded_to_date'] | string).toordinal() -%}
                {%- if names is not none and event not in names -%}
                    {%- do missing.update(range(first, last + 1)) -%}
                {%- elif run['mode'] in ('first', 'full_refresh') and run['loaded_to_date'] >= run['to_date'] -%}
                    {#- This is what counting everything means, however far back others went. -#}
                    {%- do missing.clear() -%}
                {%- elif run['mode'] == 'incremental' and run['cursor_column'] == 'processed_at' -%}
                    {#- Of the days before it brought what came late. -#}
                    {%- set after = run['watermark_before'].toordinal() if run['watermark_before'] else first - 1 -%}
                    {%- do missing.difference_update(range(after + 1, last + 1)) -%}
                {%- else -%}
                    {%- do missing.difference_update(range(first, last + 1)) -%}
                {%- endif -%}
            {%- endfor -%}
            {%- if missing -%}
                {%- set day = modules.datetime.date.fromordinal -%}
                {%- do problems.append(
                    event ~ ' (' ~ missing | length ~ ' days, ' ~ day(missing | min) ~ ' to ' ~ day(missing | max) ~ ')'
                ) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- do return(problems | join(', ')) -%}
{% endmacro %}


{# Refuse to count anew what would not be all. #}
{% macro check_events_are_loaded() %}
    {%- set not_loaded = events_not_loaded() -%}
    {%- if not_loaded -%}
        {%- do exceptions.raise_compiler_error(
            this ~ " would miss events that its metrics count and that were not asked for: " ~ not_loaded
            ~ ". Nothing was changed. " ~ how_to_count_anew(not_loaded)
        ) -%}
    {%- endif -%}
{% endmacro %}


{# The command that is right: what is not loaded has to be, and what is loaded need not be again. #}
{% macro how_to_count_anew(not_loaded) %}
    {%- set command = env_var('MIXPANEL_PIPELINE_COMMAND', 'python pipelines/run.py') -%}
    {%- if not_loaded -%}
        {%- do return(
            "Load them and count everything again with: " ~ command ~ " --full-refresh "
            ~ "(the setting `events`, if it is a list, has to name them)"
        ) -%}
    {%- endif -%}
    {%- do return("Count everything again with: " ~ command ~ " --skip-load --full-refresh") -%}
{% endmacro %}
