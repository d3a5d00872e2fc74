-- The roles of a team on PostgreSQL, each with the rights that it needs and no more. Run it with psql
-- in the database that is synced, before the first sync or later, as a superuser, or as the owner of
-- the database who may create roles. It may be run again.
--
--     psql "host=… dbname=analytics user=…" -f roles.sql
--
-- loader       mixpanel-pipeline --skip-transform
--              Owns the raw dataset, and has no right to the models.
-- transformer  mixpanel-pipeline --skip-load, and mixpanel-pipeline dbt …
--              Owns the models and reads the raw dataset. There it writes only that it runs.
-- analyst      Reads the models, staged events included, and writes nothing. The raw dataset it reads
--              only through views, which have the rights of their owner. Nobody logs in as it; people
--              are of it: grant mixpanel_analyst to ann;
--
-- One role for the whole sync: give loader and transformer the same name. Other names than these:
--
--     psql -v loader=… -v transformer=… -v analyst=… -v raw=… -v marts=… -f roles.sql
--
-- where raw and marts are what dataset_name and mart_schema are configured to be.
--
-- Roles that are made here cannot log in before they have a password: \password mixpanel_loader
-- and \password mixpanel_transformer. What is in the schemas already gets these owners.
-- `remove` and `forget` change both schemas: run them as a role that is granted both roles.

\set ON_ERROR_STOP on
\if :{?loader} \else \set loader mixpanel_loader \endif
\if :{?transformer} \else \set transformer mixpanel_transformer \endif
\if :{?analyst} \else \set analyst mixpanel_analyst \endif
\if :{?raw} \else \set raw mixpanel_raw \endif
\if :{?marts} \else \set marts mixpanel \endif
\set raw_staging :raw _staging
\set failures :marts _dbt_test__audit

begin;
set local client_min_messages = warning;

select format('create role %I %s', name, case name when :'analyst' then 'nologin' else 'login' end)
from (values (:'loader'), (:'transformer'), (:'analyst')) as roles (name)
where not exists (select from pg_roles where rolname = name)
group by name
\gexec

-- Who gives a schema to a role has to be of it.
select format('grant %I to current_user', name)
from (values (:'loader'), (:'transformer')) as owners (name)
where name <> current_user and not (select rolsuper from pg_roles where rolname = current_user)
group by name
\gexec

select format('grant connect, temporary on database %I to %I, %I', current_database(), :'loader', :'transformer')
\gexec
select format('grant connect on database %I to %I', current_database(), :'analyst')
\gexec

create schema if not exists :"raw" authorization :"loader";
create schema if not exists :"raw_staging" authorization :"loader";
create schema if not exists :"marts" authorization :"transformer";
-- Where dbt test --store-failures keeps the rows that it found.
create schema if not exists :"failures" authorization :"transformer";

-- The tables that both of them write. A sync adds their columns.
create table if not exists :"raw".sync_lock (id integer primary key, token text not null);
create table if not exists :"raw".sync_runs (id text primary key);

select format('alter schema %I owner to %I', nspname, owner)
from pg_namespace
inner join (
    values (:'raw', :'loader'), (:'raw_staging', :'loader'), (:'marts', :'transformer')
) as owners (schema, owner) on nspname = schema
where pg_get_userbyid(nspowner) <> owner
union all
select format('alter table %I.%I owner to %I', nspname, relname, owner)
from pg_class
inner join pg_namespace on relnamespace = pg_namespace.oid
inner join (
    values (:'raw', :'loader'), (:'raw_staging', :'loader'), (:'marts', :'transformer')
) as owners (schema, owner) on nspname = schema
where relkind in ('r', 'p', 'v', 'm') and pg_get_userbyid(relowner) <> owner
\gexec

-- What is there, and what syncs will make there.
grant usage on schema :"raw" to :"transformer";
grant select on all tables in schema :"raw" to :"transformer";
grant insert, update on :"raw".sync_lock, :"raw".sync_runs to :"transformer";
alter default privileges for role :"loader" in schema :"raw" grant select on tables to :"transformer";

grant usage on schema :"marts" to :"analyst";
grant select on all tables in schema :"marts" to :"analyst";
alter default privileges for role :"transformer" in schema :"marts" grant select on tables to :"analyst";

commit;
