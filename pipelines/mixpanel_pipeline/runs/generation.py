"""dbt models of the user's own, written from the dictionary of properties: a view per event."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError

FOLDER = "models/generated"
EVERYTHING = "all_events"

# What the views have of every event, and what PostgreSQL gives every relation.
_OWN_COLUMNS = {
    "event_key": "Identity of the event.",
    "subscriber_id": "Under which id it happened, as in `stg_mixpanel__events`.",
    "event": "Name of the event, as Mixpanel has it.",
    "occurred_at": "When it happened, by Mixpanel's clock.",
    "loaded_at": "When the load that delivered it finished, by our clock.",
}
_SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
# PostgreSQL cuts longer names, and its views have at most 1,664 columns.
_NAME_LENGTH = 63
_MOST_COLUMNS = 1_600
_COLUMN = re.compile(r'^ +\{\{ mixpanel\.property_as\((.+)\) \}\} as "([^"]+)",?$', re.MULTILINE)
_EVENT = re.compile(r"^ +where event = \{\{ mixpanel\.text_literal\((.+)\) \}\}$", re.MULTILINE)
# Between such lines stands what is ours: everything else in a file is left as it is.
_BEGIN, _END = "generated: begin", "generated: end"

Property = tuple[str, str]
"""Its name in Mixpanel, and its type."""


@dataclass(frozen=True)
class Found:
    """A row of the dictionary, with what is written of the property and of the event."""

    event: str
    property: str
    type: str
    events: int
    share: float
    description: str | None = None
    event_description: str | None = None


def generate(
    warehouse: Warehouse, *, events: Sequence[str] = (), min_share: float = 0.0
) -> dict[Path, str]:
    """Write the models; all of them, or none because of an error.

    Args:
        warehouse: Where the dictionary is.
        events: The names of the events to write views of; all by default, and the one of all.
        min_share: Properties that fewer of an event's events have, in that type, are left out.

    Returns:
        What became of each file: "written" or "unchanged".

    Raises:
        SyncError: There is nothing to write from, or a file was changed where that would be lost.
    """
    folder = _folder()
    found = _dictionary(warehouse)
    known = sorted({row.event for row in found})
    if missing := [name for name in events if name not in known]:
        near = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        raise SyncError(
            f"No event that is loaded has the name {', '.join(missing)}. Nothing was written. "
            f"There are: {near}"
        )
    texts: dict[Path, str] = {}
    names = _model_names(folder, known)
    for event in known:
        if not events or event in events:
            rows = [row for row in found if row.event == event and row.share >= min_share]
            columns = _columns(folder / f"{names[event]}.sql", rows)
            texts |= _files(folder, names[event], columns, rows, event)
    if not events:
        columns = _columns(folder / f"{EVERYTHING}.sql", _of_all(found, min_share))
        texts |= _files(folder, EVERYTHING, columns)
    contents = {path: _merged(path, text) for path, text in texts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    outcome = {}
    for path, content in contents.items():
        is_new = not path.exists() or path.read_text(encoding="utf-8") != content
        if is_new:
            path.write_text(content, encoding="utf-8")
        outcome[path] = "written" if is_new else "unchanged"
    return outcome


def _folder() -> Path:
    own = project.dbt_project()
    if project.IS_INSTALLED and own == project.DBT_PACKAGE:
        raise SyncError(
            f"There is no dbt project of your own in {project.folder()} to write models into. "
            f"Begin one with: {project.COMMAND} init"
        )
    return own / FOLDER


def _dictionary(warehouse: Warehouse) -> list[Found]:
    if not warehouse.has_table(warehouse.marts, "property_dictionary"):
        raise SyncError(
            f"There is no {warehouse.marts}.property_dictionary to write from. Leave the variable "
            "property_dictionary in dbt_project.yml true, and build it: "
            f"{project.COMMAND} --skip-load"
        )
    found = warehouse.rows(
        "select event, property, type, events, event_share, description, event_description "
        f"from {warehouse.marts}.property_dictionary"
    )
    if not found:
        raise SyncError("No events are loaded, of which models could be written: sync first.")
    # By bytes, whatever the database's collation.
    return sorted((Found(*row) for row in found), key=lambda row: (row.event, row.property))


def _of_all(found: Sequence[Found], min_share: float) -> list[Found]:
    """The properties of all events together, as rows of one."""
    sizes: dict[str, float] = {}
    totals: dict[Property, int] = {}
    for row in found:
        # `time` is in every event; rarer ones would only be rounded more.
        sizes[row.event] = max(sizes.get(row.event, 0.0), row.events)
        key = row.property, row.type
        totals[key] = totals.get(key, 0) + row.events
    everything = sum(sizes.values())
    rows = [Found("", *key, total, total / everything) for key, total in sorted(totals.items())]
    return [row for row in rows if row.share >= min_share]


def plain_name(name: str) -> str:
    """A name as Mixpanel's own exports to warehouses spell it.

    https://docs.mixpanel.com/docs/data-pipelines/schematized-export-pipeline
    """
    name = f"mp_{name[1:]}" if name.startswith("$") else name
    return re.sub(r"[^a-z0-9_]", "_", name.lower()) or "_"


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, or the first with a number behind it that is not taken."""
    taken, number, free = set(taken), 0, name[:_NAME_LENGTH]
    while free in taken:
        number += 1
        end = f"_{number}"
        free = name[: _NAME_LENGTH - len(end)] + end
    return free


def _model_names(folder: Path, events: Sequence[str]) -> dict[str, str]:
    """The models' names by event; one that was written before keeps it."""
    names: dict[str, str] = {}
    for path in sorted(folder.glob("event_*.sql")):
        for event in _EVENT.findall(path.read_text(encoding="utf-8")):
            names[ast.literal_eval(event)] = path.stem
    for event in events:
        if event not in names:
            names[event] = _free(f"event_{plain_name(event)}", names.values())
    return names


def _columns(path: Path, rows: Sequence[Found]) -> dict[str, Property]:
    """The columns of a model by name; one that the model has keeps its name, whatever comes."""
    types: dict[str, set[str]] = {}
    for row in rows:
        if row.type != "null":
            types.setdefault(row.property, set()).add(row.type)
    wanted: list[Property] = []
    conflicts = set[str]()
    for name, those in types.items():
        # An ISO text is a text.
        if "string" in those:
            those.discard("datetime")
        wanted += [(name, one) for one in sorted(those)]
        conflicts |= {name} if len(those) > 1 else set()
    before = _columns_of(path)
    columns = {name: before[name] for name in before if before[name] in wanted}
    taken = [*_OWN_COLUMNS, *_SYSTEM_COLUMNS, *columns]
    for name, kind in wanted:
        if (name, kind) not in columns.values():
            end = f"_{kind}" if name in conflicts else ""
            column = _free(plain_name(name)[: _NAME_LENGTH - len(end)] + end, taken)
            columns[column] = name, kind
            taken.append(column)
    if len(columns) > _MOST_COLUMNS:
        raise SyncError(
            f"{path.stem} would have {len(columns):,} columns, more than a view can have. Nothing "
            "was written; leave rare properties out with --min-share."
        )
    return dict(sorted(columns.items(), key=lambda item: item[1]))


def _columns_of(path: Path) -> dict[str, Property]:
    """The columns of a model that was written before."""
    if not path.exists():
        return {}
    found = _COLUMN.findall(path.read_text(encoding="utf-8"))
    return {column: ast.literal_eval(f"({arguments})") for arguments, column in found}


def _files(
    folder: Path,
    name: str,
    columns: Mapping[str, Property],
    rows: Sequence[Found] = (),
    event: str | None = None,
) -> dict[Path, str]:
    return {
        folder / f"{name}.sql": _sql(event, columns),
        folder / f"{name}.yml": _yaml(name, event, columns, rows),
    }


def _sql(event: str | None, columns: Mapping[str, Property]) -> str:
    selected = [*_OWN_COLUMNS]
    selected += [
        # Python's literals are Jinja's.
        f'{{{{ mixpanel.property_as({one!r}, {kind!r}) }}}} as "{column}"'
        for column, (one, kind) in columns.items()
    ]
    lines = ["with", "", "generated as (", "", "    select"]
    lines += [",\n".join(f"        {one}" for one in selected)]
    lines += ["    from {{ ref('mixpanel', 'stg_mixpanel__events').render() }}"]
    lines += (
        [f"    where event = {{{{ mixpanel.text_literal({event!r}) }}}}"]
        if event is not None
        else []
    )
    lines += ["", ")", ""]
    body = "\n".join(lines)
    return f"{_begin('{# ', ' #}', body)}{body}{{# {_END} #}}\n\nselect *\nfrom generated\n"


def _yaml(
    name: str, event: str | None, columns: Mapping[str, Property], rows: Sequence[Found]
) -> str:
    written = {row.property: row.description for row in rows}
    of_event = _written(rows[0].event_description if rows else None)
    what = (
        "One row per event of all events, its properties as columns."
        if event is None
        else f"One row for each time of the event {_told(event)}."
    )
    lines = ["models:", f"  - name: {name}", f"    description: {_quoted(what + of_event)}"]
    lines += ["    columns:"]
    for column, description in _OWN_COLUMNS.items():
        lines += [f"      - name: {column}", f"        description: {_quoted(description)}"]
        if column == "event_key":
            # They read all events: syncs leave them to full refreshes and to `dbt test`.
            lines += ["        data_tests:"]
            lines += [f"          - {test}: {{config: {{tags: [full_scan]}}}}" for test in _TESTS]
    for column, (one, kind) in columns.items():
        what = f"The property {_told(one)}, {_KINDS[kind]}."
        description = _quoted(what + _written(written.get(one)))
        lines += [f'      - name: "{column}"', f"        description: {description}"]
        lines += ["        quote: true"]
    body = "\n".join(lines) + "\n"
    return f"{_begin('# ', '', body)}{body}# {_END}\n"


_TESTS = ("unique", "not_null")
_KINDS = {
    "string": "where it is a text",
    "number": "where it is a number",
    "boolean": "where it is true or false",
    "datetime": "where it is a date and time; without a zone, in UTC",
    "list": "where it is a list, as JSON",
    "object": "where it is an object, as JSON",
}


def _written(description: str | None) -> str:
    """What Mixpanel's Lexicon says, behind what is said already."""
    return f" {_literally(' '.join(description.split()))}" if description else ""


def _told(name: str) -> str:
    return _literally(json.dumps(name, ensure_ascii=False))


def _literally(text: str) -> str:
    """A text in a description, which dbt takes for a template."""
    return re.sub(r"\{(?=[{%#])", "{{ '{' }}", text)


def _quoted(text: str) -> str:
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return quoted.strip()


def _begin(before: str, after: str, body: str) -> str:
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return (
        f"{before}{_BEGIN} {digest}: `{project.COMMAND} generate` writes what stands from here to "
        f'"{_END}" anew, and leaves the rest{after}\n'
    )


def _merged(path: Path, text: str) -> str:
    """What is to be in the file: of what is there, all but the marked part.

    Raises:
        SyncError: That part was changed, or cannot be told.
    """
    if not path.exists():
        return text
    old = path.read_text(encoding="utf-8")
    where, new = _marked(old), _marked(text)
    assert new is not None
    if where is None:
        raise SyncError(
            f"{path} has no marked part to write anew: its lines with `{_BEGIN}` and `{_END}` are "
            "gone. Nothing was written; move the file away, and it is written afresh."
        )
    first, last = where
    begin, _, body = old[first:last].partition("\n")
    if hashlib.sha256(body.encode()).hexdigest()[:12] not in begin:
        raise SyncError(
            f"{path} was changed between the lines with `{_BEGIN}` and `{_END}`. Nothing was "
            f"written: undo that, or move it below `{_END}`, which is left as it is; or move the "
            "file away, and it is written afresh."
        )
    return old[:first] + text[new[0] : new[1]] + old[last:]


def _marked(text: str) -> tuple[int, int] | None:
    """Where the marked part begins, its first line included, and where it ends, its last not."""
    begins = list(re.finditer(rf"^(?:\{{# |# ){_BEGIN} ", text, re.MULTILINE))
    ends = list(re.finditer(rf"^(?:\{{# |# ){_END}", text, re.MULTILINE))
    if len(begins) != 1 or len(ends) != 1 or begins[0].start() > ends[0].start():
        return None
    return begins[0].start(), ends[0].start()
