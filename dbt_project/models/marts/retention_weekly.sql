with

weeks as (

    select distinct
        subscriber_id,
        cast(date_trunc('week', event_date) as date) as active_week
    from {{ ref('active_days').render() }}

),

cohorts as (

    select
        subscriber_id,
        active_week,
        min(active_week) over (partition by subscriber_id) as cohort_week
    from weeks

),

retained as (

    select
        cohort_week,
        {{ days_between('cohort_week', 'active_week') }} / 7 as weeks_later,
        count(*) as retained_subscribers
    from cohorts
    group by 1, 2

),

sizes as (

    select
        cohort_week,
        retained_subscribers as cohort_subscribers
    from retained
    where weeks_later = 0

)

select
    retained.cohort_week,
    cast(retained.weeks_later as integer) as weeks_later,
    cast(sizes.cohort_subscribers as bigint) as cohort_subscribers,
    cast(retained.retained_subscribers as bigint) as retained_subscribers,
    retained.cohort_week + 7 * cast(retained.weeks_later as integer) + 7 <= {{ project_today() }} as is_over
from retained
inner join sizes
    on retained.cohort_week = sizes.cohort_week
