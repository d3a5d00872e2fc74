-- A property is found by its own name, whatever characters that has.
{% set names = [
    '$city', 'plan.name', 'said "hi"', "it's", 'back\\slash', 'two words', 'über', '', '/', '~', '~1', '*', '$', '$.x', '[0]', '0',
] %}
{% set document = {'nothing': none} %}
{% for name in names %}{% do document.update({name: 'value of ' ~ name}) %}{% endfor %}

with

event as (

    select cast({{ text_literal(tojson(document)) }} as json) as properties

)

{% for name in names %}
select {{ text_literal(name) }} as property_name
from event
where {{ property(name) }} is distinct from {{ text_literal('value of ' ~ name) }}
union all
{% endfor %}
select 'nothing' as property_name
from event
where {{ property('nothing') }} is not null or {{ property('missing') }} is not null
