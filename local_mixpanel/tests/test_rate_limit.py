from datetime import date

import pytest
import requests

from local_mixpanel import Fault, LocalMixpanel, RateLimit
from local_mixpanel.rate_limit import RateLimiter

DAY = date(2026, 3, 10)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def ask(server: LocalMixpanel, **parameters: str) -> requests.Response:
    query = {"from_date": "2026-03-10", "to_date": "2026-03-10"} | parameters
    auth = (server.project_secret, "")
    return requests.get(f"{server.url}/api/2.0/export", query, auth=auth, timeout=5)


def test_requests_beyond_the_hourly_budget_get_429_and_the_wait() -> None:
    with LocalMixpanel(today=lambda: DAY, rate_limit=RateLimit(2, None)) as server:
        answers = [ask(server) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 3_500 < int(answers[2].headers["Retry-After"]) <= 3_600
    assert answers[2].json()["code"] == 429


def test_wait_can_be_kept_secret() -> None:
    limit = RateLimit(per_hour=0, tells_wait=False)
    with LocalMixpanel(today=lambda: DAY, rate_limit=limit) as server:
        answer = ask(server)

    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers


def test_refused_requests_use_nothing_of_the_budget() -> None:
    with LocalMixpanel(today=lambda: DAY, rate_limit=RateLimit(1, None)) as server:
        assert ask(server, to_date="tomorrow").status_code == 400
        assert ask(server).status_code == 200


def test_request_over_the_limit_takes_no_fault() -> None:
    with LocalMixpanel(today=lambda: DAY, rate_limit=RateLimit(1, None)) as server:
        ask(server)
        server.fail(Fault.SERVICE_UNAVAILABLE)

        assert ask(server).status_code == 429


def test_each_request_frees_its_place_a_second_or_an_hour_later() -> None:
    clock = Clock()
    limiter = RateLimiter(RateLimit(per_hour=4, per_second=3), clock)

    assert [limiter.wait() for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.9
    assert limiter.wait() == 1
    clock.now += 0.1
    assert [limiter.wait() for _ in range(2)] == [0, 3_599]
    clock.now += 3_599
    assert limiter.wait() == 0


@pytest.mark.parametrize("limit", [RateLimit(None, None), RateLimit(None, 1_000)])
def test_no_limit_lets_all_pass(limit: RateLimit) -> None:
    limiter = RateLimiter(limit, Clock())

    assert {limiter.wait() for _ in range(500)} == {0}
