import pytest
from dlt.common.runtime import run_context

from mixpanel_pipeline import audit, sync
from mixpanel_pipeline.engines import DuckDB, open_warehouse
from mixpanel_pipeline.engines.duckdb import configured_path
from mixpanel_pipeline.engines.postgres_connection import configured_credentials
from mixpanel_pipeline.settings import check_settings
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError

ACCOUNT = {
    "project_id": "1",
    "service_account_username": "account",
    "service_account_secret": "s3cret",
}


@pytest.fixture
def configure(monkeypatch):
    def configure(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"SOURCES__MIXPANEL__{name.upper()}", value)
        return load_configuration()

    return configure


def test_defaults(configure):
    settings = configure(**ACCOUNT)
    assert settings.host == "https://data.mixpanel.com"
    assert settings.auth == ("account", "s3cret")
    assert settings.timezone == "UTC"
    assert settings.event_names == "tracked"
    assert settings.initial_window_days == 45
    assert settings.lookback_hours == 2
    assert settings.end_day == "today"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us", "https://data.mixpanel.com"),
        ("eu", "https://data-eu.mixpanel.com"),
        ("in", "https://data-in.mixpanel.com"),
    ],
)
def test_a_region_has_a_host(configure, region, host):
    assert configure(**ACCOUNT, region=region).host == host


def test_base_url_replaces_the_regions_host(configure):
    assert configure(**ACCOUNT, base_url="http://localhost:8000/").host == "http://localhost:8000"


def test_a_project_secret_is_a_user_name_without_password(configure):
    assert configure(project_secret="s3cret").auth == ("s3cret", "")


def test_everything_secret_is_known_as_such(configure):
    settings = configure(**ACCOUNT, project_secret="pr0ject", base_url="http://me:pr0xy@localhost")
    assert set(settings.secrets) == {"s3cret", "pr0ject", "pr0xy"}


def test_settings_come_from_toml_files_too(configure, tmp_path):
    settings = tmp_path / "project" / ".dlt"
    (settings / "secrets.toml").write_text(
        '[sources.mixpanel]\nproject_id = 1\nproject_secret = "from file"\nevents = ["A", "B"]\n',
        encoding="utf-8",
    )
    run_context.active().reload()
    assert configure().auth == ("from file", "")
    assert configure().project_id == "1"
    assert configure().event_names == ["A", "B"]
    assert configure(project_secret="from environment").auth == ("from environment", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("tracked", "tracked"), ("all", "all"), ('["A, b", "C"]', ["A, b", "C"])],
)
def test_events_are_a_word_or_a_list(configure, value, expected):
    assert configure(**ACCOUNT, events=value).event_names == expected


def test_what_is_not_kept_is_listed_in_a_file_or_a_variable(configure, settings_file):
    settings_file.write_text('[sources.mixpanel]\ndrop_properties = ["$email", "é, x"]\n', "utf-8")
    run_context.active().reload()
    settings = configure(**ACCOUNT, events_denied='["B"]', events='["A", "B"]')
    assert settings.names_listed("drop_properties") == {"$email", "é, x"}
    assert settings.names_listed("events_denied") == {"B"}
    assert settings.without_denied(settings.event_names) == ["A"]


def test_nothing_is_removed_unless_it_is_listed(configure):
    assert configure(**ACCOUNT, drop_properties="[]").minimisation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({}, "no credentials", id="nothing"),
        pytest.param({"service_account_username": "a"}, "service_account_secret", id="half"),
        pytest.param(ACCOUNT | {"project_id": ""}, "project_id is missing", id="no project"),
        pytest.param(ACCOUNT | {"project_id": "s3cret"}, "has to be the number", id="token"),
        pytest.param(ACCOUNT | {"region": "mars"}, "it can be us, eu or in", id="region"),
        pytest.param(ACCOUNT | {"region": "EU"}, "Did you mean eu", id="capitals"),
        pytest.param(ACCOUNT | {"base_url": "localhost"}, "http://", id="base_url"),
        pytest.param(ACCOUNT | {"base_url": "http://x:port"}, "http://", id="port"),
        pytest.param(ACCOUNT | {"timezone": "Mars/Base"}, "IANA", id="timezone"),
        pytest.param(ACCOUNT | {"timezone": "../x"}, "IANA", id="timezone that is a path"),
        pytest.param(
            ACCOUNT | {"timezone": "Europe/Berln"}, "mean Europe/Berlin", id="near timezone"
        ),
        pytest.param(ACCOUNT | {"end_day": "tomorrow"}, "end_day", id="end_day"),
        pytest.param(ACCOUNT | {"cursor": "processed"}, "mean processed_at", id="cursor"),
        pytest.param(ACCOUNT | {"initial_window_days": "0"}, "from 1 to", id="no window"),
        pytest.param(ACCOUNT | {"initial_window_days": "9999999"}, "to 10000", id="ages"),
        pytest.param(ACCOUNT | {"initial_window_days": "many"}, "a whole number", id="text"),
        pytest.param(ACCOUNT | {"lookback_hours": "two"}, "has to be a number", id="words"),
        pytest.param(ACCOUNT | {"attempts": "0"}, "from 1 to", id="attempts"),
        pytest.param(ACCOUNT | {"max_wait_minutes": "-1"}, "from 0 to", id="wait"),
        pytest.param(ACCOUNT | {"read_timeout_seconds": "0"}, "from 0.001", id="timeout"),
        pytest.param(ACCOUNT | {"lookback_hours": "-1"}, "from 0 to", id="lookback"),
        pytest.param(ACCOUNT | {"lookback_hours": "nan"}, "from 0 to", id="no number"),
        pytest.param(ACCOUNT | {"events": "some"}, "it can be", id="events"),
        pytest.param(ACCOUNT | {"events": "[]"}, "it can be", id="no events"),
        pytest.param(ACCOUNT | {"events": "[1]"}, "it can be", id="events that are numbers"),
        pytest.param(ACCOUNT | {"events": "[A"}, "not readable", id="events that are not JSON"),
        pytest.param(ACCOUNT | {"drop_properties": "$email"}, "a list of property", id="a word"),
        pytest.param(ACCOUNT | {"events_denied": "[1]"}, "a list of event names", id="numbers"),
        pytest.param(
            ACCOUNT | {"drop_properties": '["$email", "time"]'},
            "cannot have time: .*when",
            id="time",
        ),
        pytest.param(
            ACCOUNT | {"hash_properties": '["$user_id"]'}, "cannot have .user_id: .*whose", id="id"
        ),
        pytest.param(
            ACCOUNT | {"hash_properties": '["$email"]'}, "needs hash_secret", id="no hash_secret"
        ),
        pytest.param(
            ACCOUNT | {"hash_properties": '["$email"]', "hash_secret": "s3cret"},
            "at least 32",
            id="short hash_secret",
        ),
        pytest.param(
            ACCOUNT
            | {"hash_properties": '["a"]', "drop_properties": '["a"]', "hash_secret": "s3cret" * 6},
            "drop_properties has too",
            id="dropped and hashed",
        ),
        pytest.param(
            ACCOUNT | {"events": '["A"]', "events_denied": '["A", "B"]'}, "leaves", id="all denied"
        ),
        pytest.param(
            ACCOUNT | {"service_account_secret": "\u201cs3cret\u201d"}, "curly", id="curly secret"
        ),
        pytest.param(
            ACCOUNT | {"service_account_secret": "s3cret\u0142"}, "position 7", id="far letter"
        ),
    ],
)
def test_what_is_wrong_is_said(configure, settings, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        configure(**settings)
    assert "s3cret" not in str(error.value)


MIXPANEL = '[sources.mixpanel]\nproject_id = 1\nproject_secret = "s3cret"\n'
POSTGRES = "[destination.postgres.credentials]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MIXPANEL + "regoin = 1", "config.toml, line 4: .*regoin is no .* nearest is region"),
        (MIXPANEL + "lookback_hour = 1", "nearest is lookback_hours"),
        (MIXPANEL + "zzz = 1", r"no setting of \[sources.mixpanel\], which has .*region"),
        (MIXPANEL + 'destination_type = "duckdb"', "line 4: .*at the top"),
        (
            '[runtime]\ndestination_type = "duckdb"',
            "line 2: runtime.destination_.* at the top",
        ),
        ('[runtime]\nregion = "eu"', r"belongs under \[sources.mixpanel\]"),
        ('[runtime]\nlog_levl = "INFO"', "nearest is log_level"),
        ('destination_typ = "duckdb"', "line 1: .*nearest is destination_type"),
        ('region = "eu"', r"belongs under \[sources.mixpanel\]"),
        ('[sources]\nregion = "eu"', r"belongs under \[sources.mixpanel\]"),
        ("[load]\nattempts = 3", r"belongs under \[sources.mixpanel\]"),
        ('[mixpanel]\nregion = "eu"', r"write \[sources.mixpanel\]"),
        ('[source.mixpanel]\nregion = "eu"', r"write \[sources"),
        ('[sources.mixpannel]\nregion = "eu"', r"line 1: .*write \[sources.mixpanel\]"),
        ('[destination.postgresql]\ncredentials = "s3cret"', r"write \[destination.postgres\]"),
        ('[destination.duckdb]\nmemory = "1GB"', "nearest is memory_limit"),
        (POSTGRES + 'user = "s3cret"', "line 2: .*nearest is username"),
        (POSTGRES + 'dbname = "s3cret"', "nearest is database"),
        (POSTGRES + 'sslmode = "require"', "credentials.query"),
        (MIXPANEL + "region = \u201ceu\u201d", "line 4, is no TOML: .*straight quotes"),
        (MIXPANEL + 'project_secret = "s3cret"', "line 4, is no TOML"),
        (MIXPANEL + 'region = "s3cret', "line 4, is no TOML"),
        (MIXPANEL + "region = s3cret", "line 4, is no TOML"),
        ("\ufeff" + MIXPANEL, "byte order mark"),
        (MIXPANEL + "initial_window_days = [1]", "line 4.*whole number"),
        (MIXPANEL + "attempts = true", "line 4.*whole number"),
        ('[sources.mixpanel]\nproject_secret = ["s3cret"]', "line 2.*has to be text"),
        ('[sources.mixpanel.region]\nname = "eu"', "region"),
        (MIXPANEL + "attempts = true", "attempts is true"),
        ('[source.mixpanel]\nregion = "eu"', "line 1: "),
        ("sources = 5", r"line 1: .*write \[sources.mixpanel\]"),
        ('[sources]\nmixpanel = "s3cret"', r"line 2: .*write \[sources.mixpanel\]"),
        ('[destination]\npostgres = "s3cret"', r"write \[destination.duckdb\] or"),
        ('[destination]\ncredentials = "s3cret"', r"belongs under \[destination.duckdb\] or"),
        ('destination = "postgres"', "nearest is destination_type"),
        ('[destination.duckdb]\npath = "x"', r"database under \[destination.duckdb.credentials\]"),
        ('[destination.postgres]\npassword = "s3cret"', "nearest is password under"),
    ],
)
def test_a_mistake_in_a_file_is_refused_with_its_line(settings_file, text, message):
    settings_file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as error:
        check()
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("SOURCES__MIXPANEL__REGOIN", "nearest is SOURCES__MIXPANEL__REGION"),
        ("SOURCES_MIXPANEL_REGION", "write SOURCES__MIXPANEL__REGION"),
        ("sources__mixpanel__region", "write SOURCES__MIXPANEL__REGION"),
        ("SOURCES__REGION", "write SOURCES__MIXPANEL__REGION"),
        ("SOURCES__MIXPANEL__DESTINATION_TYPE", "write DESTINATION_TYPE"),
        ("RUNTIME__DESTINATION_TYPE", "write DESTINATION_TYPE"),
        ("DESTINATION__POSTGRES__CREDENTIALS__USER", "CREDENTIALS__USERNAME"),
        ("DESTINATION__TYPE", "write DESTINATION_TYPE"),
        ("REQUESTS_CA_BUNDLE", "REQUESTS_CA_BUNDLE: there is no such file"),
        ("destination_type", "write DESTINATION_TYPE"),
        ("SOURCES__MIXPANNEL__REGION", "write SOURCES__MIXPANEL__REGION"),
        ("DESTINATION__POSTGRESQL__CREDENTIALS__HOST", "DESTINATION__POSTGRES__CREDENTIALS__HOST"),
        ("DESTINATION__POSTGRES__HOST", "nearest is DESTINATION__POSTGRES__CREDENTIALS__HOST"),
        ("DESTINATION__DUCKDB__PATH", "nearest is DESTINATION__DUCKDB__CREDENTIALS__DATABASE"),
        ("DESTINATION__DUCKDB__LOCK_WAIT", "nearest is DESTINATION__DUCKDB__LOCK_WAIT_SECONDS"),
        ("DESTINATION__SPARK__WAREHUOSE", "nearest is DESTINATION__SPARK__WAREHOUSE"),
    ],
)
def test_a_mistake_in_the_environment_is_refused(monkeypatch, variable, message):
    monkeypatch.setenv(variable, "s3cret")
    with pytest.raises(ConfigurationError, match=message) as error:
        check_settings()
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("asked", [sync, audit])
def test_a_program_is_told_of_mistakes_too(monkeypatch, asked):
    monkeypatch.setenv("SOURCES__MIXPANEL__REGOIN", "eu")
    with pytest.raises(ConfigurationError, match="nearest is SOURCES__MIXPANEL__REGION"):
        asked()


def test_a_file_that_is_not_utf_8_is_refused(settings_file):
    settings_file.write_bytes('[sources.mixpanel]\nregion = "é"\n'.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="line 2, is not UTF-8"):
        check_settings()


def test_a_file_that_cannot_be_read_is_refused(settings_file):
    settings_file.unlink()
    # Root reads every file.
    settings_file.mkdir()
    with pytest.raises(ConfigurationError, match=r"config\.toml cannot be read"):
        check_settings()


def test_settings_of_others_are_allowed(settings_file, caplog):
    settings_file.write_text(
        'destination_type = "duckdb"\n'
        '[sources.github]\nregion = "eu"\n[sources.github.issues]\ntimezone = "x"\n'
        '[destination.bigquery.credentials]\nproject_id = "x"\n'
        f"{POSTGRES}host = 'x'\n[destination.postgres.credentials.query]\nsslmode = 'require'\n"
        '[runtime]\nlog_level = "INFO"\nrequest_timeout = 3\n' + MIXPANEL,
        encoding="utf-8",
    )
    check()
    assert caplog.text == ""


def test_a_setting_of_dlts_without_effect_is_warned_of(settings_file, caplog):
    settings_file.write_text(f"[normalize.data_writer]\nfile_max_items = 1\n{MIXPANEL}", "utf-8")
    check()
    assert "line 2: normalize.data_writer.file_max_items has no effect" in caplog.text


def test_a_variable_of_another_program_is_no_setting(configure, monkeypatch):
    for name in ("REGION", "TIMEZONE", "EVENTS", "CURSOR", "MIXPANEL__REGION", "SOURCES__REGION"):
        monkeypatch.setenv(name, "mars")
    settings = configure(**ACCOUNT)
    assert (settings.region, settings.timezone, settings.event_names) == ("us", "UTC", "tracked")


def test_the_source_alone_is_configured_as_any_of_dlts(configure, monkeypatch):
    monkeypatch.setenv("SOURCES__REGION", "eu")
    configure(**ACCOUNT)
    assert load_configuration(exactly=False).region == "eu"


CONNECTION = {"host": "h", "port": "6", "username": "u", "password": "s3cret", "database": "d"}


@pytest.mark.parametrize(
    "prefix", ["", "CREDENTIALS__", "DESTINATION__", "DESTINATION__CREDENTIALS__"]
)
def test_a_variable_of_another_program_is_no_part_of_a_connection(
    settings_file, monkeypatch, prefix
):
    written = "".join(f'{name} = "{value}"\n' for name, value in CONNECTION.items())
    duckdb = '[destination.duckdb.credentials]\ndatabase = "ours.duckdb"\n'
    settings_file.with_name("secrets.toml").write_text(f"{POSTGRES}{written}{duckdb}", "utf-8")
    run_context.active().reload()
    for name in CONNECTION:
        monkeypatch.setenv(f"{prefix}{name.upper()}", "1")
    monkeypatch.setenv(f"{prefix}CREDENTIALS", "postgresql://a:b@other:1/c")
    parameters = configured_credentials().parameters()
    names = {"username": "user", "database": "dbname"}
    assert {name: parameters[names.get(name, name)] for name in CONNECTION} == CONNECTION
    assert configured_path().name == "ours.duckdb"


@pytest.mark.parametrize("secret", ["s3cret\n", " s3cret ", "1234"])
def test_a_part_of_a_connection_comes_after_its_url(monkeypatch, secret):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://u@h:6/d?sslmode=require")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", secret)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__CONNECT_TIMEOUT", "3")
    parameters = configured_credentials().parameters()
    assert (parameters["port"], parameters["sslmode"]) == ("6", "require")
    assert parameters["password"] == secret.rstrip("\n")
    assert parameters["connect_timeout"] == "3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('port = "s3cret"', "credentials: port .*line 2.* has to be a whole number"),
        ("port = true", "port .*line 2.* has to be a whole number"),
        ('connect_timeout = "s3cret"', "connect_timeout .*line 2.* whole number"),
        ('host = ["s3cret"]', "host .*line 2.* has to be text"),
        ('password = {a = "s3cret"}', "password .*line 2.* has to be text"),
        ('query = "s3cret"', "query .*line 2.* has to be a table"),
    ],
)
def test_a_part_of_a_connection_of_a_wrong_type_is_named(settings_file, text, message):
    others = '\nhost = "h"\nusername = "u"\ndatabase = "d"\n'
    others = others.replace('host = "h"\n', "") if text.startswith("host") else others
    settings_file.write_text(f"{POSTGRES}{text}{others}", "utf-8")
    run_context.active().reload()
    with pytest.raises(ConfigurationError, match=message) as error:
        open_warehouse("postgres")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@h:x/d",
        "s3cret",
        "mysql://u:s3cret@h:3306/d",
        "postgresql+psycopg2://u:s3cret@h/d",
        "duckdb:///s3cret",
    ],
)
def test_a_connection_that_is_no_url_is_refused(monkeypatch, url):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", url)
    expected = r"\(environment variable DESTINATION__POSTGRES__CREDENTIALS\) is no URL like"
    with pytest.raises(ConfigurationError, match=expected) as error:
        open_warehouse("postgres")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("toml", "variables", "name"),
    [
        ("", {"": "a.duckdb"}, "a.duckdb"),
        ("", {"__DATABASE": "b.duckdb"}, "b.duckdb"),
        ('[destination.duckdb.credentials]\ndatabase = "c.duckdb"', {}, "c.duckdb"),
        (
            '[destination.duckdb.credentials]\ndatabase = "c.duckdb"',
            {"__DATABASE": "b.duckdb"},
            "b.duckdb",
        ),
        ('[destination.duckdb.credentials]\ndatabase = "c.duckdb"', {"": "a.duckdb"}, "a.duckdb"),
        ('[destination.duckdb]\ncredentials = "d.duckdb"', {}, "d.duckdb"),
    ],
)
def test_a_duckdb_file_is_named_as_in_dlt(settings_file, monkeypatch, toml, variables, name):
    settings_file.write_text(toml, encoding="utf-8")
    for part, value in variables.items():
        monkeypatch.setenv(f"DESTINATION__DUCKDB__CREDENTIALS{part}", value)
    check_settings()
    run_context.active().reload()
    assert configured_path().name == name


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[destination.duckdb]\ncredentials = 5", "has to be text"),
        ("[destination.duckdb.credentials]\ndatabase = true", "has to be text"),
        ('[destination.duckdb.credentials]\ndatabase = "md:x"', "MotherDuck"),
    ],
)
def test_what_names_no_duckdb_file_is_refused(settings_file, toml, message):
    settings_file.write_text(toml, encoding="utf-8")
    run_context.active().reload()
    with pytest.raises(ConfigurationError, match=f"destination.duckdb.credentials: .*{message}"):
        open_warehouse("duckdb")


@pytest.mark.parametrize("limit", ["lots", "512", "2 apples"])
def test_a_memory_limit_that_is_no_amount_is_refused(monkeypatch, limit):
    monkeypatch.setenv("DESTINATION__DUCKDB__MEMORY_LIMIT", limit)
    with pytest.raises(ConfigurationError, match=r"memory_limit is .* like 512MB"):
        open_warehouse("duckdb")


@pytest.mark.parametrize("limit", ["512MB", "1.5 GiB", "2gb", "60%"])
def test_a_memory_limit_is_written_as_in_duckdb(monkeypatch, limit):
    monkeypatch.setenv("DESTINATION__DUCKDB__MEMORY_LIMIT", limit)
    warehouse = open_warehouse("duckdb")
    assert isinstance(warehouse, DuckDB)
    assert warehouse.memory_limit == limit


def test_two_names_for_the_duckdb_file_are_refused(monkeypatch):
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", "a.duckdb")
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS__DATABASE", "b.duckdb")
    with pytest.raises(ConfigurationError, match="CREDENTIALS__DATABASE name two files"):
        open_warehouse("duckdb")


def test_a_part_of_a_connection_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://u:s3cret@h")
    with pytest.raises(
        ConfigurationError, match=r"it lacks database: .*CREDENTIALS__DATABASE"
    ) as error:
        open_warehouse("postgres")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("host=/run/postgresql", "host in the query is not read, set host instead"),
        ("user=s3cret", "user in the query is not read, set username"),
        ("service=s&keepalives_count=3", "keepalives_count cannot be given beside a service"),
    ],
)
def test_a_parameter_that_would_not_reach_every_connection_is_refused(monkeypatch, query, message):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", f"postgresql://u:s3cret@h/d?{query}")
    with pytest.raises(ConfigurationError, match=message) as error:
        open_warehouse("postgres")
    assert "s3cret" not in str(error.value)


def test_a_connection_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setenv("CREDENTIALS", "postgresql://u:s3cret@h/d")
    with pytest.raises(ConfigurationError, match="postgres is not configured"):
        open_warehouse("postgres")


@pytest.fixture
def settings_file(tmp_path):
    return tmp_path / "project" / ".dlt" / "config.toml"


def check():
    """What the command does before anything else."""
    check_settings()
    run_context.active().reload()
    load_configuration()
