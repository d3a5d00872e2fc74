"""dbt models of the user's own, written by `generate`: what they hold, and what stays of edits."""

import json
import re
from contextlib import closing
from datetime import UTC, datetime

import pytest
import yaml

from mixpanel_pipeline.cli.main import main
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import rows

EVENT = 'Said "hi", {{ it }} \\ 😀'
# A property, and the values that its column of a type has of it; `plan` has one of each type.
COLUMNS = {
    "$city": ("mp_city", "string"),
    "Mp City": ("mp_city_1", "string"),
    "mp_city": ("mp_city_2", "string"),
    'said "hi"': ("said__hi_", "string"),
    "it's": ("it_s", "number"),
    "a.b/c~d*": ("a_b_c_d_", "boolean"),
    "über\nline": ("_ber_line", "datetime"),
    "": ("_", "list"),
    "{{ x }} {% y %}": ("___x_______y___", "object"),
    "event": ("event_1", "string"),
    "ctid": ("ctid_1", "number"),
    "back\\slash 😀": ("back_slash__", "string"),
}
VALUES = [
    *(
        "gold",
        "",
        "undefined",
        "<null>",
        "null",
        "5",
        "true",
        "ünï 😀",
        'a "b"',
        "two\nlines",
        "[]",
    ),
    *("2026-01-31T12:00:00", "2024-02-29T23:59:59.123Z", "2026-12-31T00:00:00.5+05:30"),
    *("2026-02-29T00:00:00", "2026-01-31", "2026-01-31T24:00:00"),
    *(0, -1, 1.5, 1e-7, 2**60, 10**30, True, False, None, [], [1, "a"], {}, {"a": {"b": None}}),
]
OF_TYPE = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def typed(value, kind):
    """The value as a column of the type has it."""
    if value in ("undefined", "<null>"):
        return None
    if kind == "datetime":
        try:
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:", value)
            found = datetime.fromisoformat(value)
        except (AssertionError, TypeError, ValueError):
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    if not OF_TYPE[kind](value):
        return None
    return float(value) if kind == "number" else value


def happened(number, name=EVENT, **properties):
    own = {"time": int(NOW.timestamp()) - number, "distinct_id": "ada", "$insert_id": f"{number}"}
    return {"event": name, "properties": own | properties}


@pytest.fixture
def sent(mixpanel, monkeypatch):
    """Each property first with values of its own type alone, and `plan` with all of them."""
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    events = []
    for number, value in enumerate(VALUES):
        fitting = {
            name: value
            for name, (_, kind) in COLUMNS.items()
            if value in ("undefined", None) or typed(value, kind) is not None
        }
        events.append(happened(number, **fitting, plan=value))
    events.append(happened(100, "Other", rare=1))
    mixpanel.add(events)
    return events


@pytest.fixture
def generated(dbt_project):
    return dbt_project / "models" / "generated"


def stored(warehouse, view, columns):
    """Each column's values, by the number of the event."""
    names = ["mp_insert_id", *columns]
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        quoted = ", ".join(f'"{name}"' for name in names)
        cursor.execute(f"select {quoted} from mixpanel.{view}")
        found = cursor.fetchall()
    return {int(row[0]): dict(zip(columns, row[1:], strict=True)) for row in found}


def read(value):
    """A value as Python has it, whatever the driver makes of JSON."""
    is_json = isinstance(value, str) and value[:1] in ("[", "{")
    return json.loads(value) if is_json else value


def test_views_have_the_values_that_events_have(
    sent, mixpanel, warehouse, run_sync, generated, capsys
):
    assert run_sync().error is None
    assert main(["generate"]) == 0
    assert "written   dbt_project/models/generated/all_events.sql" in capsys.readouterr().out
    # What comes later may be of another type.
    sent.insert(0, happened(200, **dict.fromkeys(COLUMNS, 7), plan="silver"))
    mixpanel.add(sent[:1])
    [model] = [path.stem for path in generated.glob("event_said*.sql")]
    assert run_sync().error is None
    plans = {f"plan_{kind}": kind for kind in OF_TYPE}
    kinds = dict(COLUMNS.values()) | plans
    for view in (model, "all_events"):
        found = stored(warehouse, view, kinds)
        for event in sent[:-1]:
            properties = event["properties"]
            expected = {
                column: typed(properties.get(name), kind)
                for name, (column, kind) in COLUMNS.items()
            }
            expected |= {column: typed(properties["plan"], kind) for column, kind in plans.items()}
            row = found[int(properties["$insert_id"])]
            told = {
                column: row[column] if kind == "string" else read(row[column])
                for column, kind in kinds.items()
            }
            assert told == expected
    [(events,)] = rows(warehouse, "select count(*) from mixpanel.all_events")
    assert events == len(sent)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_written_again_files_keep_edits_outside_of_the_marked_part(
    sent, mixpanel, warehouse, run_sync, generated, capsys
):
    assert run_sync().error is None
    assert main(["generate", "--event", "Other"]) == 0
    assert sorted(path.name for path in generated.iterdir()) == [
        "event_other.sql",
        "event_other.yml",
    ]
    path = generated / "event_other.sql"
    mine = path.read_text(encoding="utf-8").replace(
        "select *\nfrom generated", "select *, rare * 2 as twice\nfrom generated"
    )
    path.write_text("-- mine\n" + mine, encoding="utf-8")
    before = path.read_bytes()
    assert main(["generate", "--event", "Other"]) == 0
    assert path.read_bytes() == before
    # A property that would take the column's name, were it not taken.
    mixpanel.add([happened(300, "Other", RARE=1, rare=2)])
    assert run_sync().error is None
    assert main(["generate"]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- mine\n")
    assert "rare * 2 as twice" in text
    assert """property_as('rare', 'number') }} as "rare",""" in text
    assert """property_as('RARE', 'number') }} as "rare_1",""" in text
    assert main(["generate", "--event", "Other", "--min-share", "0.6"]) == 0
    assert "RARE" not in path.read_text(encoding="utf-8")
    assert run_sync(skip_load=True).error is None
    capsys.readouterr()

    text = path.read_text(encoding="utf-8")
    for changed, why in [
        (text.replace("occurred_at,", "occurred_at, 1 as one,"), "was changed between the lines"),
        (text.replace("generated: end", "the end"), "has no marked part"),
    ]:
        path.write_text(changed, encoding="utf-8")
        assert main(["generate"]) == 1
        [line] = told(capsys.readouterr().err)
        assert f"event_other.sql {why}" in line
        assert path.read_text(encoding="utf-8") == changed


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_what_cannot_be_written_is_told(warehouse, run_sync, sent, dbt_project, capsys):
    assert main(["generate"]) == 1
    [line] = told(capsys.readouterr().err, "ERROR")
    assert "There is no mixpanel.property_dictionary to write from." in line
    assert run_sync().error is None
    assert main(["generate", "--event", "Othr"]) == 1
    [line] = told(capsys.readouterr().err, "ERROR")
    assert "No event that is loaded has the name Othr." in line
    assert not (dbt_project / "models" / "generated").exists()


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_models_say_what_people_wrote_of_their_events(
    sent, mixpanel, warehouse, run_sync, generated, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__LEXICON", "true")
    mixpanel.lexicon.describe("Other", description='Any "other"\n{{ event }}: {% x %}')
    mixpanel.lexicon.describe("Other", "rare", description="How rare.")
    assert run_sync().error is None
    assert main(["generate", "--event", "Other"]) == 0
    [model] = yaml.safe_load((generated / "event_other.yml").read_text(encoding="utf-8"))["models"]
    assert model["description"] == (
        """One row for each time of the event "Other". """
        """Any "other" {{ '{' }}{ event }}: {{ '{' }}% x %}"""
    )
    said = {column["name"]: column["description"] for column in model["columns"]}
    assert said["rare"] == 'The property "rare", where it is a number. How rare.'
    # dbt reads it.
    assert run_sync().error is None
