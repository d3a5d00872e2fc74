import pytest
from dlt.common.runtime import run_context

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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({}, "no credentials", id="nothing"),
        pytest.param({"service_account_username": "a"}, "service_account_secret", id="half"),
        pytest.param(ACCOUNT | {"project_id": ""}, "project_id is missing", id="no project"),
        pytest.param(ACCOUNT | {"region": "mars"}, "it can be us, eu, in", id="region"),
        pytest.param(ACCOUNT | {"base_url": "localhost"}, "http://", id="base_url"),
        pytest.param(ACCOUNT | {"timezone": "Mars/Base"}, "IANA", id="timezone"),
        pytest.param(ACCOUNT | {"timezone": "../x"}, "IANA", id="timezone that is a path"),
        pytest.param(ACCOUNT | {"end_day": "tomorrow"}, "end_day", id="end_day"),
        pytest.param(ACCOUNT | {"initial_window_days": "0"}, "at least 1", id="no window"),
        pytest.param(ACCOUNT | {"initial_window_days": "many"}, "initial_window_days", id="text"),
        pytest.param(ACCOUNT | {"attempts": "0"}, "at least 1", id="attempts"),
        pytest.param(ACCOUNT | {"max_wait_minutes": "-1"}, "cannot be negative", id="wait"),
        pytest.param(ACCOUNT | {"read_timeout_seconds": "0"}, "more than 0", id="timeout"),
        pytest.param(ACCOUNT | {"lookback_hours": "-1"}, "cannot be negative", id="lookback"),
        pytest.param(ACCOUNT | {"events": "some"}, "it can be", id="events"),
        pytest.param(ACCOUNT | {"events": "[]"}, "it can be", id="no events"),
        pytest.param(ACCOUNT | {"events": "[1]"}, "it can be", id="events that are numbers"),
        pytest.param(ACCOUNT | {"events": "[A"}, "not readable", id="events that are not JSON"),
    ],
)
def test_what_is_wrong_is_said(configure, settings, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        configure(**settings)
    assert "s3cret" not in str(error.value)
