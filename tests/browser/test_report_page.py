"""The report as a browser shows it; screenshots of it are in `screenshots/`, to be looked at."""

import base64
from contextlib import closing

import duckdb
import pytest

from tests.browser.conftest import SCREENSHOTS

SCREENS = [(1440, False), (1440, True), (390, False), (390, True), (768, False)]


def asked(reported, query):
    with closing(duckdb.connect(reported.database, read_only=True)) as connection:
        return connection.sql(query).fetchall()


def number(text):
    return int(text.replace(",", ""))


def test_the_page_asks_for_nothing_and_says_nothing_to_the_console(look, reported):
    looked = look(reported.page)
    assert looked.requests() - {"data:,"} == {reported.page.as_uri()}
    assert looked.logged() == []
    assert reported.page.stat().st_size < 1_000_000


def test_the_numbers_are_those_of_the_tables(look, reported):
    tables = look(reported.page).tables()
    days = asked(reported, "select * from mixpanel.daily_activity order by event_date desc")
    assert [[number(cell) for cell in row[1:]] for row in tables["days"]] == [
        list(row[1:]) for row in days[: len(tables["days"])]
    ]
    assert len(tables["days"]) > 50
    first = days[len(tables["days"]) - 1][0]
    taps = asked(
        reported,
        "select sum(days.portfolio_card_taps) from mixpanel.subscriber_days as days "
        f"where event_date >= '{first}'",
    )[0][0]
    heads = look(reported.page).driver.execute_script(
        "return [...document.querySelectorAll('#metric-days thead th')].map(h => h.textContent)"
    )
    place = heads.index("portfolio_card_taps")
    assert sum(number(row[place]) for row in tables["metric-days"]) == taps
    top = asked(
        reported,
        "select events_processed from mixpanel.subscribers order by 1 desc limit 10",
    )
    assert [number(row[1]) for row in tables["people"]] == [events for (events,) in top]
    people = [number(row[2]) for row in tables["steps"]]
    assert people == sorted(people, reverse=True)
    assert people[0] > people[-1] > 0


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_the_page_fits_and_everybody_can_read_it(look, reported, width, dark):
    looked = look(reported.page, width, dark=dark)
    looked.shoot(f"report-{width}-{'dark' if dark else 'light'}")
    assert looked.driver.execute_script("return document.documentElement.scrollWidth") == width
    is_shown = "return [...document.querySelectorAll('.chart')].filter(c => c.offsetHeight).length"
    shown = looked.driver.execute_script(is_shown)
    # One of the two widths of each chart, and one of each metric.
    charts = looked.driver.execute_script("return document.querySelectorAll('.chart').length")
    assert charts - shown == 3
    assert looked.violations() == []


def test_the_page_is_printed_on_white(look, reported):
    looked = look(reported.page, dark=True)
    SCREENSHOTS.mkdir(exist_ok=True)
    printed = looked.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    (SCREENSHOTS / "report.pdf").write_bytes(base64.b64decode(printed["data"]))
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    looked.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [dark]}
    )
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert looked.driver.execute_script(ground) == "rgb(255, 255, 255)"
    opened = "return [...document.querySelectorAll('details')].some(d => d.offsetHeight)"
    assert not looked.driver.execute_script(opened)


@pytest.mark.parametrize(("width", "dark"), SCREENS[1:3])
def test_an_empty_database_is_told_in_words(look, empty, width, dark):
    looked = look(empty.page, width, dark=dark)
    looked.shoot(f"empty-{width}-{'dark' if dark else 'light'}")
    assert "Nothing was ever loaded here." in looked.driver.execute_script(
        "return document.body.innerText"
    )
    assert looked.driver.execute_script("return document.documentElement.scrollWidth") == width
    assert looked.violations() == []
    assert looked.logged() == []
