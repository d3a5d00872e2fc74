-- What holds for every subscriber does: what `dbt_project.yml` declares, and what counts are by
-- themselves. `invariant` says what does not. One test, as each sync reads all subscribers for it.
select
    subscriber_id,
    invariant
from (
    select
        subscriber_id,
        case
            {% for told, condition in subscriber_invariants() -%}
            when ({{ condition }}) is not true then {{ text_literal(told) }}
            {% endfor -%}
        end as invariant
    from {{ ref('subscribers') }}
) as found
where invariant is not null
