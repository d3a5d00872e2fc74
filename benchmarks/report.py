"""The report: what was measured, as a table and a chart in `docs/`."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from typing import Any

from benchmarks.bench import ROOT, Row, machine

_DOCS = ROOT / "docs"
_RESULTS = _DOCS / "benchmarks.json"
_BAR, _LEFT, _WIDTH = 22, 330, 760


def remember(section: str, rows: Iterable[Row]) -> None:
    """Keep what a section measured, in place of what it measured before."""
    results = _read()
    results[section] = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    _DOCS.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write(sections: Iterable[str]) -> None:
    """Write the report of everything that is kept, in the order of `sections`."""
    results = _read()
    known = [name for name in sections if name in results]
    text = [
        "# Benchmarks",
        "",
        "Measured by `make bench`; one section by `make bench SECTIONS=load`. Whole processes, "
        "their start included. PostgreSQL runs without fsync, for us and for what we are compared "
        "with. Every row count is checked. Trust the ratios, not the times: loads, syncs and "
        "full refreshes are the fastest of three, the others one run each, on a machine that "
        "others may use as well.",
        "",
    ]
    if "load" in results:
        text += ["![events a second](benchmarks.svg)", ""]
        (_DOCS / "benchmarks.svg").write_text(_chart(results["load"]["rows"]), encoding="utf-8")
    for name in known:
        text += [f"## {name}", "", results[name]["machine"], ""]
        text += [
            "| what | ours | compared with | ratio | target | met |",
            "|---|---|---|---|---|---|",
        ]
        for row in results[name]["rows"]:
            met = {True: "yes", False: "**no**", None: ""}[row.pop("is_met")]
            cells = [str(cell).replace("|", "\\|") for cell in (*row.values(), met)]
            text.append(f"| {' | '.join(cells)} |")
        text.append("")
    (_DOCS / "benchmarks.md").write_text("\n".join(text), encoding="utf-8")


def _read() -> dict[str, Any]:
    found: dict[str, Any] = (
        json.loads(_RESULTS.read_text(encoding="utf-8")) if _RESULTS.exists() else {}
    )
    return found


def _chart(rows: list[dict[str, Any]]) -> str:
    """Events a second as bars: ours, then what they are compared with."""
    bars: dict[str, tuple[float, bool]] = {}
    for row in rows:
        for cell, is_ours in ((row["ours"], True), (row["compared"], False)):
            rate = re.match(r"([\d,]+) events/s(?:: (.*))?", cell)
            if rate is None or not row["ratio"]:
                continue
            what = row["what"].removeprefix("HTTP to raw table, ")
            own, _, other = what.partition(" against ")
            label = f"ours, {own.split(',')[0]}" if is_ours else rate[2] or other.split(",")[0]
            bars.setdefault(label, (float(rate[1].replace(",", "")), is_ours))
    most = max(value for value, _ in bars.values())
    height = len(bars) * _BAR + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (label, (value, is_ours)) in enumerate(
        sorted(bars.items(), key=lambda bar: -bar[1][0])
    ):
        top = 5 + number * _BAR
        width = (_WIDTH - _LEFT - 80) * value / most
        color = "#4f6df5" if is_ours else "#b9bfcc"
        lines += [
            f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{top + 3}" width="{width:.1f}" height="{_BAR - 6}" '
            f'fill="{color}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{top + 15}">{value:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
