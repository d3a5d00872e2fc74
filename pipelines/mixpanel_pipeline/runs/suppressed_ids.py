"""The table `suppressed_ids`: keyed hashes of the ids that were forgotten; and those beside it."""

from collections.abc import Collection

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.events.suppression import Suppression, hashed
from mixpanel_pipeline.source.configuration import SECRET_LENGTH
from mixpanel_pipeline.source.errors import ConfigurationError

NAME = "suppressed_ids"
LINKED = "ids_to_forget"
HIDDEN = "events_of_forgotten"
# By it a secret is recognised; no event is of the empty id.
_NOBODY = ""


def suppression(warehouse: Warehouse, secret: str | None) -> Suppression | None:
    """What is not to be loaded into a warehouse; None for nothing.

    Args:
        warehouse: Where the table is, if there is one.
        secret: What its hashes are keyed with.

    Raises:
        ConfigurationError: It is not that secret, or there is none: forgotten ids could come back.
    """
    if not warehouse.has_table(warehouse.raw, NAME):
        return None
    hashes = {one for (one,) in warehouse.rows(f"select id_hash from {warehouse.raw}.{NAME}")}
    if not hashes:
        return None
    if not secret or hashed(_NOBODY, secret) not in hashes:
        raise ConfigurationError(
            f"sources.mixpanel.hash_secret is {'another one' if secret else 'not set'}, but ids "
            f"were forgotten in {warehouse.location} that are recognised by it. Nothing was "
            "requested or changed: with another secret they would come back. Set the one of then."
        )
    return Suppression(hashes, secret)


def prepare(warehouse: Warehouse) -> None:
    """Create the table, and the one that says how much was forgotten, where there are none.

    Whoever loads does so before anybody is forgotten: they have to be the loader's.
    """
    if warehouse.has_table(warehouse.raw, HIDDEN):
        return
    warehouse.execute(
        f"create table if not exists {warehouse.raw}.{NAME} (id_hash text primary key)"
    )
    warehouse.execute(
        f"create table if not exists {warehouse.raw}.{LINKED} (distinct_id text primary key)"
    )
    warehouse.execute(
        f"create table if not exists {warehouse.raw}.forgotten "
        "(forgotten_at timestamp with time zone not null, ids integer not null, "
        "events bigint not null, rejected_lines bigint not null, subscribers bigint not null, "
        "profiles bigint)"
    )
    if "profiles" not in warehouse.columns(warehouse.raw, "forgotten"):
        warehouse.execute(f"alter table {warehouse.raw}.forgotten add column profiles bigint")
    # The last one: where it is, all are.
    warehouse.execute(
        f"create table if not exists {warehouse.raw}.{HIDDEN} "
        "(day date not null, event text not null, events bigint not null)"
    )


def keep_linked(warehouse: Warehouse, ids: Collection[str]) -> None:
    """Enter ids that turned out to be of people who were forgotten, to be forgotten as well.

    Args:
        warehouse: Where; the caller holds its lock.
        ids: The ids.
    """
    if not ids:
        return
    table = f"{warehouse.raw}.{LINKED}"
    insertion = f"insert into {table} select %s where %s not in (select distinct_id from {table})"
    warehouse.execute_held([(insertion, [one, one]) for one in sorted(ids)])


def linked(warehouse: Warehouse) -> int:
    """How many ids may have to be forgotten as well."""
    if not warehouse.has_table(warehouse.raw, LINKED):
        return 0
    number: int = warehouse.value(f"select count(*) from {warehouse.raw}.{LINKED}")
    return number


def entries(ids: list[str], secret: str | None) -> list[str]:
    """What to enter into the table for some ids.

    Raises:
        ConfigurationError: The secret is missing or short.
    """
    if not secret or len(secret) < SECRET_LENGTH:
        raise ConfigurationError(
            "sources.mixpanel.hash_secret is needed to recognise forgotten ids without keeping "
            f"them: a text of at least {SECRET_LENGTH} characters, in .dlt/secrets.toml, made "
            "once and kept. For example: python -c 'import secrets; print(secrets.token_hex())'"
        )
    return [hashed(one, secret) for one in (_NOBODY, *ids)]
