"""The report's charts: Vega-Lite's, drawn as SVG before anybody opens the page.

The page has no script. Its style sheet gives the colours, `--series-1` and so on, so that one
drawing is right on light and dark ground and on paper.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

_SVG = "http://www.w3.org/2000/svg"
# What a bar or a line stands on; a single day would fill the width.
_DAYS_AT_LEAST = 14
# Points make a line of few days visible, and one of many days ugly.
_DAYS_WITH_POINTS = 21
_VEGA_LITE = "6.1"
_CONFIG: dict[str, Any] = {
    # Widths are measured with what the library has: about those of a reader's own.
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "labelFontSize": 12,
        "domain": False,
        "ticks": False,
        "gridColor": "var(--grid)",
        "labelPadding": 8,
    },
    "axisX": {"grid": False},
}
WIDE = (880, 240)
NARROW = (330, 210)
SMALL = (264, 64)


def lines(
    days: Sequence[date],
    series: Mapping[str, Sequence[int]],
    size: tuple[int, int],
) -> str:
    """A line for each series, as SVG.

    Args:
        days: Of the values, in order.
        series: The values by name.
        size: Width and height.
    """
    mark = {
        "type": "line",
        "strokeWidth": 2,
        "strokeJoin": "round",
        # Those that nobody sees say their number when pointed at.
        "point": {"filled": True, "size": 30, "opacity": int(len(days) <= _DAYS_WITH_POINTS)},
    }
    return _drawn(_spec(days, series, size, mark), size)


def bars(
    days: Sequence[date],
    series: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    unfinished: date | None = None,
) -> str:
    """A bar for each day, of all series on top of each other, as SVG.

    Args:
        days: Of the values, in order.
        series: The values by name, the lowest first.
        size: Width and height of what is drawn.
        unfinished: The day that is not over; it is drawn paler.
    """
    spec = _spec(days, series, size, {"type": "bar"})
    spec["encoding"]["order"] = {"field": "place"}
    if size == SMALL:
        most = _most(series, stack=True)
        spec["encoding"]["y"]["axis"] |= {"values": [0, most]}
        spec["encoding"]["y"]["scale"] |= {"domainMax": most, "nice": False}
        spec["encoding"]["x"]["axis"] |= {"tickCount": 3}
    if unfinished:
        is_unfinished = f"utcFormat(datum.day, '%Y-%m-%d') === '{unfinished}'"
        spec["encoding"]["opacity"] = {
            "condition": {"test": is_unfinished, "value": 0.5},
            "value": 1,
        }
    return _drawn(spec, size)


def _spec(
    days: Sequence[date],
    series: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    mark: dict[str, Any],
) -> dict[str, Any]:
    names = list(series)
    last = days[-1]
    first = min(days[0], last - timedelta(days=_DAYS_AT_LEAST - 1))
    is_bar = mark["type"] == "bar"
    values = [
        {
            "day": str(day),
            "series": name,
            "place": place,
            "number": number,
            "told": f"{day.day} {day:%b %Y}: {number:,}{f' {name}' if name else ''}",
        }
        for place, (name, numbers) in enumerate(series.items())
        for day, number in zip(days, numbers, strict=True)
        # What is not there has no height.
        if number or not is_bar
    ]
    most = _most(series, stack=is_bar)
    width, height = size
    per_tick = 110 if width > NARROW[0] else 80
    return {
        "width": width,
        "height": height,
        "background": None,
        "padding": 0,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"values": values, "format": {"parse": {"day": "utc:'%Y-%m-%d'"}}},
        "mark": mark,
        "config": _CONFIG,
        "encoding": {
            "x": {
                "field": "day",
                "type": "temporal",
                "title": None,
                **({"timeUnit": "utcyearmonthdate"} if is_bar else {}),
                "scale": {
                    "type": "utc",
                    "domain": [_instant(first), _instant(last + timedelta(days=is_bar))],
                },
                "axis": {
                    "format": "%-d %b",
                    "tickCount": max(2, width // per_tick),
                    "labelOverlap": True,
                    "labelFlush": True,
                    # A bar ends where the next day begins, of which there is nothing to say.
                    "labelExpr": f"datum.value > {_instant(last)} ? '' : datum.label",
                },
            },
            "y": {
                "field": "number",
                "type": "quantitative",
                "title": None,
                "stack": "zero" if is_bar else None,
                "scale": {"domainMin": 0, "nice": True},
                "axis": {
                    "labelExpr": "datum.value ? format(datum.value, '~s') : '0'",
                    "tickCount": 4,
                    # There is no half of a person.
                    **({"values": list(range(most + 1))} if most < 4 else {}),
                },
            },
            "color": {
                "field": "series",
                "type": "nominal",
                "legend": None,
                "scale": {
                    "domain": names,
                    "range": [f"var(--series-{place})" for place in range(1, len(names) + 1)],
                },
            },
            "description": {"field": "told"},
        },
    }


def _most(series: Mapping[str, Sequence[int]], *, stack: bool) -> int:
    """The highest value, of bars that stand on each other or of lines."""
    height: Callable[[Sequence[int]], int] = sum if stack else max
    return max(height(values) for values in zip(*series.values(), strict=True))


def _instant(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000


def _drawn(spec: dict[str, Any], size: tuple[int, int]) -> str:
    """The chart as an `svg` element that scales; what each mark says is shown where one points."""
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=_VEGA_LITE)
    ET.register_namespace("", _SVG)
    root = ET.fromstring(drawn)
    for name in ("width", "height", "class"):
        root.attrib.pop(name, None)
    for element in root.iter():
        told = element.attrib.get("aria-label")
        # The page says what the whole is, and has all numbers in a table.
        for name in ("aria-label", "aria-hidden", "aria-roledescription", "role"):
            element.attrib.pop(name, None)
        if told and element.attrib.get("d"):
            ET.SubElement(element, f"{{{_SVG}}}title").text = told
    root.set("style", f"max-width: {size[0] * 1.25:.0f}px")
    return ET.tostring(root, encoding="unicode")
