"""Metrics are what the declaration says, whatever it says; what it cannot say is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from random import Random

import pytest

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline import declaration, project
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs.transform import call_dbt
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import rows, subscribers

# What a name may have that SQL, JSON, JSONPath, Jinja, YAML, Python's `splitlines` or a driver
# treats as something of its own.
CHARACTERS = (
    "\n\r\t\v\f\x1c\x85\u2028\u00a0 \"'\\`$%{}#;:/~*?[]()<>=-._,|&@!^+0aAzéÉßİ名😀\u200d\u0301\0"
)
AWKWARD = [
    "two\nlines",
    "two  spaces",
    "two spaces",
    " around ",
    "{{ 1 / 0 }}",
    "{% raw %}",
    "{# gone #}",
    "it's",
    'said "so"',
    "back\\slash\\n",
    "100 % %s %(x)s",
    "-- not a comment",
    "/* nor this",
    "; drop table x;",
    "$1 $$ $tag$",
    "Café Visité",
    "\r\n",
    "null",
    "123",
    "~1/0*",
]


def event(name="$ae_session", who="ada", **properties):
    time = int(NOW.timestamp())
    return {"event": name, "properties": {"time": time, "distinct_id": who, **properties}}


def replaced_by(wanted):
    """Replaces the shipped metrics by these."""

    def edit(declared):
        declared.clear()
        declared.update(wanted)

    return edit


def names(random, number):
    """Names that differ in more than the case of letters."""
    made: dict[str, str] = {}
    while len(made) < number:
        name = "".join(random.choices(CHARACTERS, k=random.randint(1, 12)))
        made.setdefault(name.casefold(), name)
    return [*AWKWARD, *made.values()]


def test_an_event_of_any_name_is_counted(mixpanel, warehouse, run_sync, metrics):
    random = Random(1)
    wanted, properties, texts = (names(random, 60) for _ in range(3))
    random.shuffle(properties)
    random.shuffle(texts)
    cases = list(zip(wanted, properties, texts, strict=True))
    # PostgreSQL holds � for NUL, so two names may be one there.
    cases = list({name.replace("\0", "�"): (name, *more) for name, *more in cases}.values())
    declared = {}
    for number, (name, key, text) in enumerate(cases):
        declared[f"all_{number}"] = {"event": name}
        declared[f"with_{number}"] = {"event": name, "where": {key: text}}
        declared[f"without_{number}"] = {"event": name, "unless": {key: text}}
    metrics(replaced_by(declared))
    for name, key, text in cases:
        mixpanel.add(
            [event(name), event(name, **{key: f"a{text}b"}), event(name, **{key: "other"})]
        )
    summary = run_sync(full_refresh=True)
    assert summary.status == "ok", summary.error
    (counted,) = subscribers(warehouse).values()
    expected = {f"all_{number}": 3 for number in range(len(cases))}
    expected |= {f"with_{number}": 1 + (text in "other") for number, (*_, text) in enumerate(cases)}
    expected |= {
        f"without_{number}": 2 - (text in "other") for number, (*_, text) in enumerate(cases)
    }
    wrong = {
        (name, cases[int(name.rpartition("_")[2])], counted[name], count)
        for name, count in expected.items()
        if counted[name] != count
    }
    assert wrong == set()
    assert run_sync().status == "ok"


def test_definitions_that_differ_in_spaces_only_are_two(mixpanel, warehouse, run_sync, metrics):
    metrics(replaced_by({"copies": {"event": "two  spaces"}}))
    mixpanel.add([event("two  spaces"), event("two spaces"), event("two\nspaces")])
    assert run_sync().status == "ok"
    metrics(replaced_by({"copies": {"event": "two spaces"}}))
    assert "another declaration" in str(run_sync().error)


@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"], indirect=True)
def test_counts_that_databases_have_are_added_to(mixpanel, warehouse, run_sync):
    """Hashes of the shipped metrics, as databases have them."""
    last_version = {
        "duckdb": "247c7896f9817af467612ea62c22365e",
        "postgres": "3743242265f934ca6f19349c42c839cb",
    }
    mixpanel.add([event()])
    assert run_sync().status == "ok"
    found = rows(
        warehouse,
        "select distinct definition_hash from mixpanel.counted_loads "
        "where model = 'subscriber_days'",
    )
    assert found == [(last_version[warehouse.name],)]


@pytest.mark.usefixtures("built")
def test_ones_own_metrics_may_replace_the_shipped(mixpanel, warehouse, run_sync, metrics):
    # Words of SQL, and columns of the events that are counted.
    words = ["order", "select", "user", "count", "event", "properties", "stored", "added", "end"]
    mixpanel.add([event("Signed Up"), event("Signed Up", plan="premium"), event("Signed Out")])
    assert run_sync().status == "ok"
    metrics(
        replaced_by(
            {word: {"event": "Signed Up"} for word in words}
            | {"premium": {"event": "Signed Up", "where": {"plan": "premium"}}}
            | {"out": {"event": "Signed Out", "kind": "flag"}}
        ),
        ["order + 1 >= premium + out", "order = select"],
    )
    failed = run_sync()
    assert (failed.status, "--full-refresh" in str(failed.error)) == ("failed", True)
    done = run_sync(full_refresh=True)
    assert done.status == "ok", done.error
    (ada,) = subscribers(warehouse).values()
    assert {ada[word] for word in words} == {2}
    assert (ada["premium"], ada["out"], ada["events_processed"]) == (1, True, 3)
    assert "app_sessions" not in ada
    mixpanel.add([event("Signed Up")])
    assert run_sync().status == "ok"
    assert subscribers(warehouse)["ada"]["order"] == 3


@pytest.mark.usefixtures("built")
def test_metrics_may_be_taken_away(mixpanel, warehouse, run_sync, metrics):
    mixpanel.add([event(), event("BankAccountLinked")])
    assert run_sync().status == "ok"
    metrics(lambda declared: declared.pop("linked_bank_account"))
    assert run_sync(full_refresh=True).status == "ok"
    assert subscribers(warehouse)["ada"]["events_processed"] == 1
    assert run_sync().status == "ok"


def test_without_metrics_all_events_are_counted(
    mixpanel, warehouse, run_sync, metrics, monkeypatch
):
    metrics(dict.clear)
    mixpanel.add([event("A"), event("B", who="eve")])
    with pytest.raises(ConfigurationError, match="declares no metrics"):
        run_sync()
    assert mixpanel.requests == []
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    summary = run_sync()
    assert summary.status == "ok", summary.error
    mixpanel.add([event("C")])
    assert run_sync().status == "ok"
    found = {who: row["events_processed"] for who, row in subscribers(warehouse).items()}
    assert found == {"ada": 2, "eve": 1}
    assert run_sync(full_refresh=True).status == "ok"
    assert {who: row["events_processed"] for who, row in subscribers(warehouse).items()} == found


def test_an_invariant_that_does_not_hold_fails_the_sync(mixpanel, warehouse, run_sync, metrics):
    metrics(lambda declared: None, ["app_sessions = total_copies"])
    mixpanel.add([event()])
    failed = run_sync()
    assert failed.status == "failed"
    assert "invariants_hold" in str(failed.error)


def test_the_projects_own_tests_are_of_no_metric(mixpanel, warehouse, run_sync, metrics):
    """They pass whatever is declared."""
    metrics(replaced_by({"sign_ups": {"event": "Signed Up"}}))
    mixpanel.add([event("Signed Up")])
    assert run_sync().status == "ok"
    assert call_dbt(warehouse, ["test", "--exclude", "tag:freshness"]).success


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a sync needs, whose metrics may be changed for a process of its own."""
    for name in ("pipelines", "dbt_project"):
        shutil.copytree(
            project.folder() / name,
            tmp_path / "checkout" / name,
            ignore=shutil.ignore_patterns("target", "logs", "__pycache__"),
        )
    shutil.copy(project.folder() / "pyproject.toml", tmp_path / "checkout")
    return tmp_path / "checkout"


def run(checkout, *arguments, **environment):
    return subprocess.run(
        [sys.executable, checkout / "pipelines" / "run.py", *arguments],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_names_are_read_in_utf_8_whatever_the_locale(mixpanel, warehouse, checkout):
    declared = checkout / "dbt_project" / "dbt_project.yml"
    declared.write_bytes(
        declared.read_bytes().replace(
            b"  metrics:\n", "  metrics:\n    visits: {event: Café Visité}\n".encode()
        )
    )
    time = int(datetime.now(UTC).timestamp())
    visit = {"event": "Café Visité", "properties": {"time": time, "distinct_id": "zoé"}}
    # ASCII: a file that is read in it is no longer read at all, rather than read wrongly.
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with LocalMixpanel() as server:
        server.add([visit])
        environment = {
            "SOURCES__MIXPANEL__BASE_URL": server.url,
            "DBT_TARGET_PATH": str(checkout / "target"),
        }
        done = run(checkout, "--json", **environment, **ascii_only)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events_new"] == 1
    assert rows(warehouse, "select subscriber_id, visits from mixpanel.subscribers") == [("zoé", 1)]


def declared(text):
    return f"name: mixpanel\nvars:\n{text}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (declared("  metrics: {a: {evnt: X}}"), 3, r"`evnt`.*did you mean `event`\?"),
        (declared("  metrics:\n    a: X Y"), 4, r"`a` is a text: write a: {event: X Y}"),
        (declared("  metrics:\n    a: [X]"), 4, r"`a` is a list"),
        (declared("  metrics:\n    a:"), 4, r"`a` is nothing"),
        (declared("  metrics:\n    a: {}"), 4, r"`a` has no `event`"),
        (declared("  metrics:\n    a: {event: }"), 4, r"`event` .* is nothing"),
        (declared("  metrics:\n    a: {event: ''}"), 4, r"`event` .* is empty"),
        (declared("  metrics:\n    a: {event: 12}"), 4, r'a number: write it in quotes, "12"'),
        (declared("  metrics:\n    a: {event: yes}"), 4, r'true or false: .* "yes"'),
        (declared("  metrics:\n    a: {event: 2026-01-01}"), 4, r"a date: write it in quotes"),
        (declared("  metrics:\n    a: {event: [X]}"), 4, r"is a list: write a text"),
        (declared('  metrics:\n    a: {event: "\\ud800"}'), 4, r"half a surrogate pair"),
        (declared("  metrics:\n    a: {event: X, kind: flags}"), 4, r"did you mean `flag`\?"),
        (declared("  metrics:\n    a: {event: X, kind: [flag]}"), 4, r"`kind` .* is a list"),
        (declared("  metrics:\n    a: {event: X, where: premium}"), 4, r"`where` .* is a text"),
        (declared("  metrics:\n    a: {event: X, unless: [b]}"), 4, r"`unless` .* is a list"),
        (declared("  metrics:\n    a: {event: X, where: {b: }}"), 4, r"`b` in `where` .* nothing"),
        (declared("  metrics:\n    a: {event: X, where: {b: ''}}"), 4, r"is empty"),
        (declared("  metrics:\n    a: {event: X, where: {b: 010}}"), 4, r'quotes, "010"'),
        (declared("  metrics:\n    a: {event: X, where: {1: x}}"), 4, r"a name is 1"),
        (declared("  metrics:\n    a: {event: X}\n    a: {event: Y}"), 5, r"`a` twice.*line 4"),
        (declared("  metrics:\n    a: {event: X, event: Y}"), 4, r"`event` twice"),
        (declared("  metrics: {}\n  metrics: {}"), 4, r"`metrics` twice.*line 3"),
        (declared("  metrics:\n    a b: {event: X}"), 4, r"`a b` cannot .* write a_b"),
        (declared("  metrics:\n    Größe: {event: X}"), 4, r"`Größe` cannot be .* write gr_e"),
        (declared("  metrics:\n    1st: {event: X}"), 4, r"write metric_1st"),
        (declared(f"  metrics:\n    {'a' * 64}: {{event: X}}"), 4, r"longer than 63"),
        (declared("  metrics:\n    subscriber_id: {event: X}"), 4, r"is a column of `subscribers`"),
        (declared("  metrics:\n    xmin: {event: X}"), 4, r"every PostgreSQL table"),
        (declared("  metrics: [a]"), 3, r"`metrics` is a list"),
        (declared("  metrics:"), 3, r"`metrics` is nothing"),
        (declared("  metric: {}"), 3, r"no `metrics`.*Is `metric` them\?"),
        (declared("  metrics: {}\n  invariants: a = b"), 4, r"`invariants` is a text"),
        (
            declared("  metrics: {views: {event: X}}\n  invariants: [veiws > 0]"),
            4,
            r"did you mean `views`\?",
        ),
        (declared("  metrics: {a: {event: X}}\n  invariants: [a + a]"), 4, r"is not a comparison"),
        (declared("  metrics: {a: {event: X}}\n  invariants: [a = a; x]"), 4, r"`x`, which is no"),
        ("name: mixpanel", 1, r"has no `vars`"),
        ("vars: []", 1, r"`vars` is a list"),
        ("- a", 1, r"the file is a list"),
        ("vars: {}\nx: [a", 2, r"not YAML"),
        ("vars:\n\tmetrics: {}", 2, r"not YAML"),
        ("vars: &a\n  metrics: *b", 2, r"not YAML"),
        ("vars:\n  metrics: \x07", 2, r"U\+0007"),
        (b"vars:\n  metrics: {caf\xe9: {event: X}}", 2, r"byte 0xE9 is not UTF-8"),
    ],
)
def test_what_is_wrong_in_the_declaration_is_said(dbt_project, text, line, message):
    content = text if isinstance(text, bytes) else text.encode()
    (dbt_project / "dbt_project.yml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as error:
        declaration.metrics()
    assert str(error.value).startswith(f"dbt_project/dbt_project.yml, line {line}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "name", "line", "message"),
    [
        ("events_denied", "X", 5, "`a` counts `X`"),
        ("events_denied", "$identify", 3, "who is who is found out from `.identify`"),
        ("drop_properties", "p", 6, "`where` of the metric `a` reads `p`"),
        ("hash_properties", "q", 7, "`unless` of the metric `a` reads `q`"),
    ],
)
@pytest.mark.parametrize("option", ["--skip-transform", "--skip-load"])
def test_a_metric_that_needs_what_is_not_loaded_is_refused(
    dbt_project, mixpanel, monkeypatch, capsys, setting, name, line, message, option
):
    text = "  identity: resolve\n  metrics:\n    a: {event: X,\n      where: {p: x},\n"
    text += "      unless: {q: x}}"
    (dbt_project / "dbt_project.yml").write_text(declared(text), encoding="utf-8")
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", "0123456789abcdef" * 2)
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{setting.upper()}", json.dumps([name, "other"]))
    assert main(["--quiet", option]) == 2
    (error,) = told(capsys.readouterr().err)
    assert f"dbt_project.yml, line {line}: " in error
    assert re.search(message, error)
    assert f"(environment variable SOURCES__MIXPANEL__{setting.upper()})" in error
    assert mixpanel.requests == []


def test_numbers_and_truths_are_texts_where_a_property_contains_them(dbt_project):
    text = declared("  metrics: {a: {event: X, where: {n: 5, f: 1.5, t: true}}}")
    (dbt_project / "dbt_project.yml").write_text(text, encoding="utf-8")
    assert declaration.metrics() == {
        "a": {"event": "X", "where": {"n": "5", "f": "1.5", "t": "true"}}
    }


@pytest.mark.parametrize("damage", [None, b"  metrics: 1\n#"])
def test_a_declaration_that_is_missing_or_wrong_is_wrong_configuration(mixpanel, checkout, damage):
    path = checkout / "dbt_project" / "dbt_project.yml"
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(content.replace(b"  metrics:\n", damage))
    for arguments in (["--json"], ["--json", "--skip-load"], ["--json", "audit"], ["demo"]):
        done = run(checkout, *arguments)
        assert done.returncode == 2
        (error,) = told(done.stderr)
        assert "dbt_project.yml" in error
    with suppress(FileNotFoundError):
        path.unlink()
    assert mixpanel.requests == []
