"""What the schemas are called that the loader and the models write."""

import re
from dataclasses import dataclass, fields

import dlt
import duckdb

from mixpanel_pipeline.source.errors import ConfigurationError

_SECTION = "sources.mixpanel"
# dlt makes one underscore of two, and an x of one at the end: it would load elsewhere.
_NAME = re.compile(r"[a-z](?:_?[a-z0-9])*")
_STAGING = "_staging"
# PostgreSQL cuts longer ones, and dlt appends the name of the staging dataset.
_NAME_LENGTH = 63 - len(_STAGING)
_OF_THE_DATABASE = ("information_schema", "main", "public", "system", "temp")
# https://www.postgresql.org/docs/current/sql-keywords-appendix.html: those that cannot name a
# schema, beside DuckDB's, which that tells itself.
_KEYWORDS = (
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "grant",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
)


@dataclass(frozen=True)
class Schemas:
    """The names; each is configured by that of its field, and dbt reads the same variables.

    Attributes:
        dataset_name: The raw dataset, which the loader writes.
        mart_schema: What the models are built in.

    Raises:
        ConfigurationError: They cannot be the names of two schemas of our own.
    """

    dataset_name: str = "mixpanel_raw"
    mart_schema: str = "mixpanel"

    def __post_init__(self) -> None:
        for field in fields(self):
            name = getattr(self, field.name)
            problem = None if name == field.default else _problem(name)
            if problem:
                raise ConfigurationError(f"{_SECTION}.{field.name} is {name!r}: {problem}")
        if self.dataset_name == self.mart_schema:
            raise ConfigurationError(
                f"{_SECTION}.dataset_name and mart_schema are both {self.dataset_name!r}: raw "
                "events and models have a schema each."
            )

    @property
    def staging(self) -> str:
        """Where dlt merges from."""
        return f"{self.dataset_name}{_STAGING}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables from which dbt reads them."""
        return {_variable(field.name): getattr(self, field.name) for field in fields(self)}


def configured_schemas() -> Schemas:
    """Those of dlt's configuration.

    Raises:
        ConfigurationError: They cannot be the names of two schemas of our own, or only one of two
            projects' schemas would have another name.
    """
    found: dict[str, object] = {
        field.name: dlt.config.get(f"{_SECTION}.{field.name}") for field in fields(Schemas)
    }
    configured = {name: str(value) for name, value in found.items() if value not in (None, "")}
    schemas = Schemas(**configured)
    if schemas.dataset_name != Schemas.dataset_name and "mart_schema" not in configured:
        raise ConfigurationError(
            f"{_SECTION}.dataset_name is {schemas.dataset_name!r}, but mart_schema is not set: two "
            f"datasets cannot be counted into one schema. Set it as well, "
            f"like {_suggested(schemas.dataset_name)!r}."
        )
    for key in ("dataset_name", "pipelines.mixpanel.dataset_name"):
        other = dlt.config.get(key, str)
        if other not in (None, schemas.dataset_name):
            raise ConfigurationError(
                f"{key} is {other!r}, but the raw dataset is {schemas.dataset_name}: "
                f"{_SECTION}.dataset_name names it, for the models too, which read it."
            )
    return schemas


def _variable(name: str) -> str:
    return f"{_SECTION}.{name}".replace(".", "__").upper()


def _suggested(dataset_name: str) -> str:
    name = dataset_name.removesuffix("_raw")
    return name if name != dataset_name and not _problem(name) else f"{dataset_name}_marts"


def _problem(name: str) -> str | None:
    """Why a schema of ours cannot have this name; None when it can."""
    if not _NAME.fullmatch(name):
        return (
            "a schema's name begins with a letter and has only a to z, digits and single "
            "underscores between them."
        )
    if len(name) > _NAME_LENGTH:
        return (
            f"it has {len(name)} characters, and may have {_NAME_LENGTH}: with {_STAGING}, which "
            "dlt appends, PostgreSQL would cut it."
        )
    if name in _OF_THE_DATABASE or name.startswith("pg_"):
        return "that schema is the database's own."
    if name.endswith(_STAGING):
        return f"dlt stages another dataset in the schema whose name ends in {_STAGING}."
    if name in _KEYWORDS or _is_keyword(name):
        return "it is a word of SQL, and every query would have to quote it."
    return None


def _is_keyword(name: str) -> bool:
    with duckdb.connect() as connection:
        connection.execute(
            "select 1 from duckdb_keywords() "
            "where keyword_name = ? and keyword_category <> 'unreserved'",
            [name],
        )
        return connection.fetchone() is not None
