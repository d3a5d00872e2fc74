"""How PostgreSQL is connected to, and what a sync needs there before it begins."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
from dlt.common.configuration import configspec
from dlt.common.configuration.exceptions import (
    ConfigFieldMissingException,
    ConfigValueCannotBeCoercedException,
    InvalidNativeValue,
)
from dlt.common.typing import TSecretStrValue
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from mixpanel_pipeline import project
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.errors import SyncError, what_to_do
from mixpanel_pipeline.exact_configuration import configured, configured_value, resolved
from mixpanel_pipeline.redaction import redacted
from mixpanel_pipeline.settings_files import place_of
from mixpanel_pipeline.source.errors import ConfigurationError

# MERGE: https://www.postgresql.org/docs/release/15.0/
_MINIMUM_VERSION = 15
_RAW_TABLES = [
    # Beside Spark's models no transaction of theirs could hold it.
    "built",
    "cohort_members",
    "cohorts",
    "dataset",
    "events",
    "events_of_forgotten",
    "forgotten",
    "ids_to_forget",
    "lexicon",
    "loads_begun",
    "profile_history",
    "profiles",
    "rejected_lines",
    "rekeyed_ids",
    # Of Spark alone.
    "removals_begun",
    "suppressed_ids",
    "sweeps",
    "swept_ids",
    "sync_lock",
    "sync_runs",
]
# A run that only builds the models is recorded, and excludes others, as any other.
_WRITTEN_TO_BUILD = ("sync_lock", "sync_runs")
_BESIDE_MODELS = ("built", "counted_loads", "counted_profiles", "identity_changes")

_SECTION = ("destination", "postgres", "credentials")
_TYPES = {
    "port": "has to be a whole number",
    "connect_timeout": "has to be a whole number, of seconds",
    "query": "has to be a table, of parameters of the connection",
}

# https://www.postgresql.org/docs/current/libpq-envars.html
_VARIABLES = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "gssdelegation": "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE",
    "gsslib": "PGGSSLIB",
    "hostaddr": "PGHOSTADDR",
    "krbsrvname": "PGKRBSRVNAME",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "service": "PGSERVICE",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "sslcert": "PGSSLCERT",
    "sslcertmode": "PGSSLCERTMODE",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "sslsni": "PGSSLSNI",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}

# What dbt's profile takes, by libpq's names.
_PROFILE = {
    "host": "HOST",
    "port": "PORT",
    "user": "USERNAME",
    "password": "PASSWORD",
    "dbname": "DATABASE",
}
_SERVICE = "mixpanel"

_STATE = re.compile(r"\bSQLSTATE: (\w{5})")
# ADBC puts its own words before the server's line, and what the server was doing behind.
_ERROR = re.compile(r"\[libpq\].*?(?:ERROR|FATAL): +([^\n]*)", re.DOTALL)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ADVICE = {
    "42501": "Somebody who may has to grant that right to the role.",
    "53100": "Make room on the server's disk.",
    "53300": "The sync needs up to 6 connections: free some, or raise max_connections.",
    "55P03": "Somebody else holds a lock on it: see pg_stat_activity.",
    "57014": "Raise statement_timeout for the sync's role: alter role … set statement_timeout = 0;",
}
# Of a connection that is refused there is no code, only what the server, a pooler or libpq says.
_REFUSALS = {
    ("password", "username"): r"authentication failed|no password supplied|no such user"
    r"|role .* does not exist|not permitted to log in|user not found|embedded null character",
    ("database",): r"database .* (?:does not exist|is not currently accepting connections)"
    r"|no such database|permission denied for database",
    ("query", "username", "database"): r"no pg_hba\.conf entry|pg_hba\.conf rejects",
    ("port",): r"invalid port number",
    ("connect_timeout",): r'connection option "connect_timeout"',
    ("query",): r"invalid \w+ value|invalid connection option|but SSL was required"
    r"|SSL not in use|authentication method requirement|definition of service|service file"
    r"|certificate|private key|unrecognized configuration parameter|requires a value"
    r"|GSSAPI encryption required|not parse network address|invalid value for parameter"
    r"|unsupported startup parameter",
}
_CONNECTION = (
    "Check that the server runs and takes this connection, and what is set in "
    "[destination.postgres.credentials]; then run again."
)


@configspec(init=False)
class Credentials(PostgresCredentials):
    """dlt's, with any password, or none: then libpq takes PGPASSWORD's or that of ~/.pgpass."""

    password: TSecretStrValue | None = None  # type: ignore[assignment]

    def parameters(self) -> dict[str, str]:
        """All of the connection, by libpq's names."""
        own = {
            "host": self.host,
            "port": self.port,
            "user": self.username,
            "password": self.password,
            "dbname": self.database,
            # What is sent is UTF-8, whatever PGCLIENTENCODING or the role's settings say.
            "client_encoding": "UTF8",
        }
        named = {**self.get_query(), **own}
        return {name: str(value) for name, value in named.items() if value is not None}

    def to_native_representation(self) -> str:
        """The connection as a URI in which every character of every value is quoted."""
        return f"postgresql:///?{urlencode(self.parameters(), quote_via=quote, safe='')}"

    def environment(self) -> dict[str, str]:
        """The variables from which dbt's profile and libpq read the same connection."""
        parameters = self.parameters()
        # dbt always gives a password; libpq looks into ~/.pgpass if it is empty.
        parameters.setdefault("password", os.environ.get("PGPASSWORD", ""))
        profile = {name: parameters.pop(name, "") for name in _PROFILE}
        return {
            f"DESTINATION__POSTGRES__CREDENTIALS__{_PROFILE[name]}": value
            for name, value in profile.items()
        } | {_VARIABLES[name]: value for name, value in parameters.items() if name in _VARIABLES}

    def without_variable(self) -> dict[str, str]:
        """What libpq and dbt's profile have no variable for: it reads that from a service file."""
        known = {*_VARIABLES, *_PROFILE}
        return {name: value for name, value in self.parameters().items() if name not in known}

    def environment_in(self, folder: Path) -> dict[str, str]:
        """`environment`; what it cannot hold stands in a service file in `folder`.

        https://www.postgresql.org/docs/current/libpq-pgservice.html
        """
        rest = self.without_variable()
        if not rest:
            return self.environment()
        folder.mkdir(parents=True, exist_ok=True)
        # Another process may read it; and the password of a key can be in it.
        descriptor, written = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join([f"[{_SERVICE}]\n", *(f"{k}={v}\n" for k, v in rest.items())]))
        service = folder / "pg_service.conf"
        Path(written).replace(service)
        return self.environment() | {"PGSERVICEFILE": str(service), "PGSERVICE": _SERVICE}


def configured_credentials() -> Credentials:
    """Those of dlt's configuration, section `destination.postgres.credentials`.

    Raises:
        ConfigurationError: One of them is missing, or cannot be what it is; the message names it.
    """
    native = configured_value(_SECTION[-1], str, _SECTION[:-1])
    # A table of a file; its keys are read one by one.
    if isinstance(native, Mapping):
        native = None
    if native is not None and not re.match("postgres(?:ql)?://", str(native)):
        raise _no_url()
    values = configured(Credentials, _SECTION)
    for name, value in values.items():
        # dlt would make a text or a number of it.
        is_table = isinstance(value, Mapping)
        if isinstance(value, list | bool) or (is_table and name != "query"):
            raise _refused(name)
    try:
        credentials = resolved(Credentials(), _SECTION, values, native)
    except ConfigValueCannotBeCoercedException as error:
        raise _refused(error.field_name) from error
    except ConfigFieldMissingException as error:
        lacking = sorted(error.fields, key=list(Credentials.get_resolvable_fields()).index)
        variables = ", ".join("__".join((*_SECTION, name)).upper() for name in lacking)
        raise ConfigurationError(
            f"The connection to postgres is not configured, it lacks {', '.join(lacking)}: set "
            f"that in [{'.'.join(_SECTION)}] in .dlt/secrets.toml, or in the environment "
            f"({variables})."
        ) from error
    except InvalidNativeValue as error:
        raise _no_url() from error
    # dlt has cut the spaces that the password begins or ends with. Secrets that are mounted as
    # files end in a newline.
    whole = str(values.get("password", ""))
    if whole.strip() == credentials.password:
        credentials.password = whole.strip("\r\n")
    _check_query(credentials)
    return credentials


def _check_query(credentials: Credentials) -> None:
    """Refuse parameters of the query that our connections or dbt's would not have."""
    section = f"{'.'.join(_SECTION)}{_place('query') or _place()}"
    for name, setting in _PROFILE.items():
        if name in (credentials.query or {}):
            raise ConfigurationError(
                f"{section}: {name} in the query is not read, set {setting.lower()} instead; "
                "in a URL it stands before the question mark."
            )
    # One connection has one service.
    has_service = "service" in credentials.parameters() or "PGSERVICE" in os.environ
    if has_service and (rest := credentials.without_variable()):
        raise ConfigurationError(
            f"{section}: {', '.join(rest)} cannot be given beside a service: put it into the "
            "service file."
        )


def refusal(error: Exception, location: str) -> ConfigurationError | None:
    """What to raise instead when a connection is refused for what is configured.

    Args:
        error: What psycopg2 raised as it connected.
        location: Where to.

    Returns:
        The error, which names the settings to check; None when to connect later may work.
    """
    said = f"{redacted(' '.join(str(error).split())).rstrip('.')}."
    names = next((of for of, pattern in _REFUSALS.items() if re.search(pattern, said)), None)
    if names is None:
        return None
    place = next(filter(None, map(_place, names)), _place())
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    variables = sorted({*_VARIABLES.values(), "PGPASSWORD"} & os.environ.keys())
    also = f", and {', '.join(variables)} in the environment" if variables else ""
    return ConfigurationError(
        f"{location} refused the connection: {said} Check {listed} of "
        f"[{'.'.join(_SECTION)}]{place}{also}; then run again."
    )


def _refused(name: str) -> ConfigurationError:
    # Not with its value: whoever mixed up two keys has a password there.
    expected = _TYPES.get(name, "has to be text")
    return ConfigurationError(f"{'.'.join(_SECTION)}: {name}{_place(name)} {expected}.")


def _no_url() -> ConfigurationError:
    return ConfigurationError(
        f"{'.'.join(_SECTION)}{_place()} is no URL like "
        "postgresql://user:password@host:5432/database. In its user name and password every "
        "character but letters and digits is written as % and its code, @ as %40."
    )


def _place(*names: str) -> str:
    place = place_of((*_SECTION, *names))
    return f" ({place})" if place else ""


def told(error: BaseException) -> str:
    """What a failure of PostgreSQL says, whichever driver met it, and what to do about it.

    Args:
        error: Of psycopg2 or ADBC.

    Returns:
        One line, without the context and the driver's own words.
    """
    text = str(error)
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is None and (found := _STATE.search(text)):
        state = found[1]
    if found := _ERROR.search(text):
        text = found[1]
    text = f"{' '.join(text.split()).rstrip('.')}."
    if text.startswith("must be owner of "):
        return f"{text} Let the role that loads sync first (--skip-transform): it makes what lacks."
    if advice := _ADVICE.get(state or ""):
        return f"{text} {advice} Then run again."
    is_lost = "closed" in text or "terminating" in text
    if isinstance(error, psycopg2.OperationalError) and state is None and not is_lost:
        return f"{text} {_CONNECTION}"
    return f"{text} {what_to_do(error)}"


def check_server(connection: Any, connect: Callable[[], Any], location: str) -> None:
    """Refuse a database in which a sync could not be right.

    Args:
        connection: A connection to it, in autocommit mode.
        connect: Opens another one.
        location: Where it is, for messages.

    Raises:
        ConfigurationError: It is too old, is not in UTF-8, or is behind a pooler that gives each
            transaction a session of its own.
        SyncError: It is behind a pooler that has no session left.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            "select current_setting('server_version_num')::int / 10000, "
            "current_setting('server_version'), current_setting('server_encoding'), "
            "pg_backend_pid(), quote_ident(current_database())"
        )
        version, name, encoding, process, database = cursor.fetchone()
        if version < _MINIMUM_VERSION:
            raise ConfigurationError(
                f"{location} is PostgreSQL {name}: it has to be {_MINIMUM_VERSION} or newer."
            )
        if encoding != "UTF8":
            raise ConfigurationError(
                f"The database {database} stores text in {encoding}, which cannot hold every "
                "event. Make another one, and set its name as the connection's database: create "
                "database mixpanel_utf8 encoding 'UTF8' locale 'C.UTF-8' template template0;"
            )
        # A pooler tells its client a process of its own invention.
        if connection.info.backend_pid == process:
            return
        try:
            cursor.execute("begin")
            cursor.execute("commit")
        except psycopg2.OperationalError as error:
            raise _not_in_session_mode(location, "statement") from error
        with closing(connect()) as other, closing(other.cursor()) as others_cursor:
            # In a transaction, which holds on to a session that it was lent.
            try:
                others_cursor.execute("select pg_backend_pid()")
            except psycopg2.OperationalError as error:
                raise SyncError(
                    f"{location} is a connection pooler that had no second session to give. A sync "
                    "needs three at once: make room, or raise default_pool_size in PgBouncer; then "
                    "run again."
                ) from error
            # Of a pool of one session, a second is waited for in vain.
            if others_cursor.fetchone()[0] == process:
                raise _not_in_session_mode(location, "transaction")
            for _ in range(3):
                cursor.execute("select pg_backend_pid()")
                if cursor.fetchone()[0] != process:
                    raise _not_in_session_mode(location, "transaction")


def _not_in_session_mode(location: str, mode: str) -> ConfigurationError:
    return ConfigurationError(
        f"{location} is a connection pooler in {mode} mode, where a sync cannot hold its lock. "
        "Connect to the server itself, or to the pooler in session mode: pool_mode = session in "
        "PgBouncer, port 5432 instead of 6543 at Supabase."
    )


def check_rights(cursor: Any, schemas: list[str], tables: dict[str, list[str]]) -> None:
    """Refuse to begin what lacks a right, and say which statement gives it.

    Args:
        cursor: Of a connection to the database.
        schemas: Those that are written; what does not exist is created, if that is allowed.
        tables: For each schema the names of what is changed there, which takes its owner.

    Raises:
        ConfigurationError: Rights are missing.
    """
    cursor.execute(
        "select quote_ident(current_user), quote_ident(current_database()), "
        "has_database_privilege(current_database(), 'TEMPORARY'), "
        "has_database_privilege(current_database(), 'CREATE')"
    )
    user, database, may_have_temporary, may_create = cursor.fetchone()
    missing = []
    if not may_have_temporary:
        missing.append(f"grant temporary on database {database} to {user};")
    cursor.execute(
        "select nspname, "
        "has_schema_privilege(oid, 'USAGE') and has_schema_privilege(oid, 'CREATE') "
        "from pg_namespace where nspname = any(%s)",
        [schemas],
    )
    is_writable = dict(cursor.fetchall())
    for schema in schemas:
        if schema not in is_writable and not may_create:
            missing.append(f"create schema {schema} authorization {user};")
        elif not is_writable.get(schema, True):
            missing.append(f"grant usage, create on schema {schema} to {user};")
    for schema, names in tables.items():
        cursor.execute(
            "select format('alter table %%I.%%I owner to %%s;', nspname, relname, %s) "
            "from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
            "where nspname = %s and (relname = any(%s) or relname like '\\_dlt\\_%%') "
            "and relkind in ('r', 'p', 'v', 'm') and not pg_has_role(relowner, 'USAGE') "
            "order by relname",
            [user, schema, names],
        )
        missing += [statement for (statement,) in cursor.fetchall()]
    _refuse_without(missing, user, database)


def check_rights_to_load(cursor: Any, schemas: Schemas) -> None:
    """`check_rights` of the raw dataset."""
    written = [schemas.dataset_name, schemas.staging]
    check_rights(cursor, written, dict.fromkeys(written, _RAW_TABLES))


def check_rights_to_read(cursor: Any, schemas: Schemas) -> None:
    """Refuse to build the models from what cannot be read, or without a record of that.

    Who builds them need not own the raw dataset. Who may create what is missing there does so.

    Args:
        cursor: Of a connection to the database.
        schemas: The schemas.

    Raises:
        ConfigurationError: Rights are missing.
    """
    raw = schemas.dataset_name
    cursor.execute(
        "select quote_ident(current_user), quote_ident(current_database()), "
        "has_database_privilege(current_database(), 'CREATE'), "
        "(select has_schema_privilege(oid, 'USAGE') from pg_namespace where nspname = %(raw)s), "
        "(select has_schema_privilege(oid, 'CREATE') from pg_namespace where nspname = %(raw)s)",
        {"raw": raw},
    )
    user, database, may_create_schemas, may_use, may_create = cursor.fetchone()
    cursor.execute(
        "select relname, quote_ident(pg_get_userbyid(relowner)), "
        "has_table_privilege(pg_class.oid, 'SELECT'), "
        "has_table_privilege(pg_class.oid, 'INSERT') "
        "and has_table_privilege(pg_class.oid, 'UPDATE') "
        "from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
        "where nspname = %s and relname = any(%s) and relkind in ('r', 'p')",
        [raw, [*_RAW_TABLES, "_dlt_loads"]],
    )
    tables = cursor.fetchall()
    absent = {*_WRITTEN_TO_BUILD} - {name for name, *_ in tables}
    if absent and not (may_create if may_use is not None else may_create_schemas):
        raise ConfigurationError(
            f"{raw}.{min(absent)} is not in the database {database}, and the role {user} may not "
            "create it: let the role that loads sync first (--skip-transform)."
        )
    missing = [] if may_use in (True, None) else [f"grant usage on schema {raw} to {user};"]
    if owners := {owner for _, owner, may_read, _ in tables if not may_read}:
        missing.append(f"grant select on all tables in schema {raw} to {user};")
        missing += [
            f"alter default privileges for role {owner} in schema {raw} "
            f"grant select on tables to {user};"
            for owner in sorted(owners)
        ]
    missing += [
        f"grant insert, update on {raw}.{name} to {user};"
        for name, _, _, may_write in sorted(tables)
        if name in _WRITTEN_TO_BUILD and not may_write
    ]
    _refuse_without(missing, user, database)


def check_rights_to_transform(cursor: Any, schemas: Schemas) -> None:
    """`check_rights` of the models."""
    folders = {project.DBT_PACKAGE, project.dbt_project()}
    models = [path.stem for folder in folders for path in (folder / "models").rglob("*.sql")]
    marts = schemas.mart_schema
    check_rights(cursor, [marts], {marts: [*models, *_BESIDE_MODELS]})


def _refuse_without(missing: Sequence[str], user: str, database: str) -> None:
    if missing:
        raise ConfigurationError(
            f"The role {user} lacks rights in the database {database}. Somebody who may has to "
            f"run there: {' '.join(missing)}"
        )
