{# The expression is true of every row; null is not true. #}
{% test is_true(model, expression) %}

select *
from {{ model }}
where ({{ expression }}) is not true

{% endtest %}
