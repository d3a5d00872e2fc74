"""The questions of docs/queries.md, answered by counting by hand."""

import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests import recount
from tests.conftest import NOW
from tests.documentation import questions
from tests.warehouses import rows

DAYS = 60
TODAY = NOW.date()
METRICS = {
    "purchases": {"event": "Purchase Completed"},
    "gift_purchases": {"event": "Purchase Completed", "where": {"kind": "gift"}},
    "app_sessions": {"event": "$ae_session"},
    "signed_up": {"event": "Signed Up", "kind": "flag"},
}
# Each has an id before signing up; the last never does.
PEOPLE = ["ada", *(f"p{number}" for number in range(12)), None]

VISITS: list[dict[str, Any]] = [
    *20 * [{}],
    {"utm_source": "mail"},
    {"utm_source": "ads", "$referring_domain": "example.com"},
    {"$referring_domain": "example.com"},
]


def happened(choose):
    """Events of people under all their ids: (who, the event as Mixpanel exports it)."""
    for number, name in enumerate(PEOPLE):
        device = f"$device:d{number}"
        signs_up = TODAY - timedelta(days=choose.randrange(1, DAYS)) if name else None
        share = choose.choice([0.05, 0.3, 0.8])
        for ago in range(DAYS):
            day = TODAY - timedelta(days=ago)
            if day != signs_up and choose.random() > share:
                continue
            for _ in range(choose.randrange(1, 4)):
                known = signs_up is not None and day > signs_up
                who = name if known else device
                bought = known and choose.random() < 0.4
                kind = choose.choice(["own", "gift"])
                visit = choose.choice(VISITS)
                what = {"kind": kind} if bought else visit
                event = "Purchase Completed" if bought else "$ae_session"
                yield name or device, at(choose, day, event, who, what)
            if day == signs_up:
                both = {"$device_id": f"d{number}", "$user_id": name}
                yield name, at(choose, day, "Signed Up", name, both)


def at(choose, day, event, who, properties):
    # Of the future is nothing.
    second = choose.randrange(12 * 3600 if day == TODAY else 86_400)
    time = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) + second
    late = choose.choice([0, 60, 3 * 3600])
    return {
        "event": event,
        "properties": {
            "time": time,
            "distinct_id": who,
            "$insert_id": f"i{choose.getrandbits(60)}",
            "mp_processing_time_ms": (time + late) * 1000,
            **properties,
        },
    }


def week(day):
    return day - timedelta(days=day.weekday())


class Answers:
    """By walking through what happened."""

    def __init__(self, sent):
        self.events = [(who, event["event"], instant(event), event) for who, event in sent]
        self.events.sort(key=lambda one: one[2])
        self.of = defaultdict(list)
        for one in self.events:
            self.of[one[0]].append(one)
        self.days = {who: {one[2].date() for one in those} for who, those in self.of.items()}
        first = min(one[2].date() for one in self.events)
        self.calendar = [first + timedelta(n) for n in range((TODAY - first).days + 1)]

    def active(self, day, length=1):
        return sum(
            any(0 <= (day - one).days < length for one in days) for days in self.days.values()
        )

    def purchases(self, who, since=date.min):
        return [
            one for one in self.of[who] if one[1] == "Purchase Completed" and one[2].date() >= since
        ]

    def signed_up(self, who):
        return [one[2] for one in self.of[who] if one[1] == "Signed Up"]

    def are_active(self):
        last = self.calendar[:-4:-1]
        return [(day, self.active(day), self.active(day, 7), self.active(day, 28)) for day in last]

    def stickiness(self):
        last = self.calendar[:-4:-1]
        return [(day, round(100 * self.active(day) / self.active(day, 28), 1)) for day in last]

    def growth(self):
        counted = defaultdict[date, list[int]](lambda: [0, 0, 0])
        for day in self.calendar:
            for days in self.days.values():
                earlier = [(day - one).days for one in days if one < day]
                found = counted[week(day)]
                found[0] += day in days and not earlier
                found[1] += day in days and bool(earlier) and min(earlier) > 28
                found[2] += day not in days and bool(earlier) and min(earlier) == 28
        return [(first, *found) for first, found in sorted(counted.items())]

    def retained(self):
        counted = Counter[tuple[date, date]]()
        for days in self.days.values():
            counted.update((week(min(days)), one) for one in {week(day) for day in days})
        for (cohort, later), number in counted.items():
            if later + timedelta(days=7) <= TODAY:
                yield cohort, (later - cohort).days // 7, counted[cohort, cohort], number

    def retention(self):
        return sorted(self.retained())

    def retention_of_all(self):
        size, number = Counter[int](), Counter[int]()
        for _, later, all_of, those in self.retained():
            size[later] += all_of
            number[later] += those
        return [(later, round(100 * number[later] / size[later], 1)) for later in sorted(size)]

    def how_often(self):
        number = Counter[str]()
        people = defaultdict[str, dict[date, set[str]]](lambda: defaultdict(set))
        for who, name, moment, _ in self.events:
            number[name] += 1
            people[name][moment.date()].add(who)
        return [
            (name, number[name], max(map(len, people[name].values()))) for name in sorted(number)
        ]

    def for_the_first_time(self):
        new = Counter({one[2].date(): 0 for one in self.events if one[1] == "Purchase Completed"})
        new.update(those[0][2].date() for who in self.of if (those := self.purchases(who)))
        return sorted(new.items())

    def bought_most(self):
        since = TODAY - timedelta(days=29)
        number = {who: len(self.purchases(who, since)) for who in self.of}
        ranked = sorted(((-many, who) for who, many in number.items() if many))
        return [(who, -many) for many, who in ranked][:10]

    def at_risk(self):
        found = []
        for who, days in self.days.items():
            ago = [(TODAY - day).days for day in days]
            if min(ago) >= 7 and min(ago) < 30:
                recent = [one for one in self.of[who] if (TODAY - one[2].date()).days < 30]
                found.append((-len(recent), who))
        return [(who, -many) for many, who in sorted(found)][:10]

    def buy_again(self):
        numbers = [len(self.purchases(who)) for who in self.of]
        return [(sum(n > 0 for n in numbers), sum(n > 1 for n in numbers))]

    def sessions(self):
        lengths = defaultdict(list)
        for who, days in self.days.items():
            for day in days:
                moments = [one[2] for one in self.of[who] if one[2].date() == day]
                gaps = [(b - a).total_seconds() >= 1800 for a, b in pairwise(moments)]
                starts = [0, *(n for n, gap in enumerate(gaps, 1) if gap)]
                for start, end in pairwise([*starts, len(moments)]):
                    lengths[day].append((moments[end - 1] - moments[start]).total_seconds())
        last = sorted(lengths, reverse=True)[:3]
        return [(day, len(lengths[day]), median(lengths[day])) for day in last]

    def story(self):
        return sorted(
            (one[2], one[1], one[3]["properties"]["distinct_id"]) for one in self.of["ada"]
        )

    def ids(self):
        return [("$device:d0",), ("ada",)]

    def convert(self):
        signed_up = [who for who in self.of if self.signed_up(who)]
        bought = [
            who
            for who in signed_up
            if any(
                timedelta(0) <= one[2] - moment <= timedelta(days=7)
                for moment in self.signed_up(who)
                for one in self.purchases(who)
            )
        ]
        return [(len(signed_up), len(bought))]

    def how_long(self):
        taken = [
            self.purchases(who)[0][2] - self.signed_up(who)[0]
            for who in self.of
            if self.signed_up(who) and self.purchases(who)
        ]
        hours = [one.total_seconds() / 3600 for one in taken if one >= timedelta(0)]
        return [(median(hours),)]

    def come_from(self):
        people, buyers = Counter[str](), Counter[str]()
        for who, those in self.of.items():
            told = [
                said
                for *_, event in those
                if (said := event["properties"].get("utm_source"))
                or (said := event["properties"].get("$referring_domain"))
            ]
            source = told[0] if told else "unknown"
            people[source] += 1
            buyers[source] += bool(self.purchases(who))
        return [(one, people[one], buyers[one]) for one in sorted(people)]

    def hours(self):
        zone = ZoneInfo("America/New_York")
        those = [one[2] for one in self.events if one[1] == "Purchase Completed"]
        return sorted(Counter(moment.astimezone(zone).hour for moment in those).items())

    def cohorts(self):
        people, bought = Counter[date](), Counter[date]()
        for who, days in self.days.items():
            people[week(min(days))] += 1
            bought[week(min(days))] += len(self.purchases(who))
        return [(one, people[one], round(bought[one] / people[one], 2)) for one in sorted(people)]

    def never_bought(self):
        found = [
            (self.of[who][0][2], who)
            for who in self.of
            if self.signed_up(who) and not self.purchases(who)
        ]
        return [(who, moment) for moment, who in sorted(found)][:10]

    def lateness(self):
        number, late = Counter[date](), Counter[date]()
        for _, _, moment, event in self.events:
            delay = event["properties"]["mp_processing_time_ms"] / 1000 - moment.timestamp()
            number[moment.date()] += 1
            late[moment.date()] += delay > 2 * 3600
        return [(day, number[day], late[day]) for day in sorted(number, reverse=True)[:3]]

    def all(self):
        """In the order of the page."""
        return [
            self.are_active(),
            self.stickiness(),
            self.growth(),
            self.retention(),
            self.retention_of_all(),
            self.how_often(),
            self.for_the_first_time(),
            self.bought_most(),
            self.at_risk(),
            self.buy_again(),
            self.sessions(),
            self.story(),
            self.ids(),
            self.convert(),
            self.how_long(),
            self.come_from(),
            self.hours(),
            self.cohorts(),
            self.never_bought(),
            self.lateness(),
        ]


def instant(event: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(recount.second_of(event["properties"]), UTC)


def comparable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return value if isinstance(value, str | date | bool) else pytest.approx(float(value), abs=0.051)


@pytest.mark.usefixtures("as_of_now")
def test_each_question_has_the_answer_that_counting_by_hand_gives(
    mixpanel, warehouse, run_sync, metrics
):
    sent = list(happened(random.Random(2)))
    mixpanel.add([event for _, event in sent])
    metrics(lambda declared: (declared.clear(), declared.update(METRICS)))
    assert run_sync().error is None
    asked = list(questions())
    answers = Answers(sent).all()
    assert len(asked) == len(answers) == 20
    for (heading, query), answer in zip(asked, answers, strict=True):
        assert answer, heading
        found = [tuple(map(comparable, row)) for row in rows(warehouse, query)]
        assert found == answer, heading
