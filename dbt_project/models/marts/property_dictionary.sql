{{ config(enabled=var('property_dictionary')) }}

{#
    `smallest_hash` begins with 13 hexadecimal digits, a number of 52 bits: the buckets' own, of
    which there are 256, estimate how many values there are. While enough are empty, those tell it
    better.
#}
{% set share = var('dictionary_sample') | float -%}
with

counts as (

    select
        event,
        property,
        type,
        max(events) as events,
        max(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at,
        cast(count(smallest_hash) as {{ type_double() }}) as buckets,
        sum({{ hex_number('substr(smallest_hash, 1, 13)') }}) / 4503599627370496.0 as hash_sum
    from {{ ref('property_counts').render() }}
    group by event, property, type

),

examples as (

    select
        event,
        property,
        type,
        {{ joined_in_order('example', 'place') }} as examples
    from (
        select
            event,
            property,
            type,
            substr(smallest_hash, 14) as example,
            row_number() over (
                partition by event, property, type
                order by {{ in_binary_order('smallest_hash') }}
            ) as place
        from {{ ref('property_counts').render() }}
        where length(smallest_hash) > 13
    ) as kept
    where place <= 5
    group by event, property, type

)

select
    counts.event,
    counts.property,
    counts.type,
    cast(round(counts.events / cast({{ share }} as {{ type_double() }})) as bigint) as events,
    cast(counts.events as {{ type_double() }}) / of_event.events as event_share,
    cast(
        round(
            case
                when counts.buckets < 243 then 256 * ln(256 / (256 - counts.buckets))
                else 256 * 255 / (256 - counts.buckets + counts.hash_sum)
            end
        ) as bigint
    ) as distinct_values,
    counts.first_seen_at,
    counts.last_seen_at,
    examples.examples,
    lexicon.display_name,
    lexicon.description,
    lexicon.is_hidden,
    event_lexicon.description as event_description
from counts
inner join counts as of_event
    on
        counts.event = of_event.event
        and of_event.type = 'event'
left join examples
    on
        counts.event = examples.event
        and counts.property = examples.property
        and counts.type = examples.type
left join {{ source('mixpanel', 'lexicon').render() }} as lexicon
    on
        counts.event = lexicon.event
        and counts.property = lexicon.property
left join {{ source('mixpanel', 'lexicon').render() }} as event_lexicon
    on
        counts.event = event_lexicon.event
        and event_lexicon.property is null
where counts.type <> 'event'
