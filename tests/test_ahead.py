import threading

import pytest

from mixpanel_pipeline.source.ahead import ahead


def test_items_come_in_their_order_from_another_thread():
    def make():
        for number in range(100):
            yield number, threading.get_ident()

    made = list(ahead(make()))
    assert [number for number, _ in made] == list(range(100))
    assert {thread for _, thread in made}.isdisjoint({threading.get_ident()})


def test_it_is_ahead_by_no_more_than_it_is_told():
    made = []

    def make():
        for number in range(10):
            made.append(number)
            yield number

    items = ahead(make(), by=2)
    for taken in range(10):
        assert next(items) == taken
        # One is taken, two wait, and one is about to.
        assert len(made) <= taken + 4
    assert next(items, None) is None


def test_a_failure_comes_after_the_items_before_it():
    def make():
        yield 1
        raise ValueError("broken")

    items = ahead(make())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_whoever_stops_early_ends_the_work():
    closed_in = []

    def make():
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.get_ident())

    items = ahead(make())
    assert next(items) == 1
    items.close()
    assert len(closed_in) == 1
    assert closed_in != [threading.get_ident()]
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]
