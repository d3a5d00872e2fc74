"""Places for threads that may not all go at once."""

import threading

import pytest

from mixpanel_pipeline.source.slots import Slots


@pytest.fixture
def go():
    """Starts threads that take a slot and say so, and waits for them in the end."""
    threads = []

    def go(slot, taken, number):
        def take():
            slot.take()
            taken.append(number)

        threads.append(threading.Thread(target=take, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield go
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_no_more_are_held_than_there_are(go):
    slots, taken = Slots(2), list[int]()
    held = [slots.next() for _ in range(3)]
    threads = [go(slot, taken, number) for number, slot in enumerate(held)]
    threads[0].join()
    threads[1].join()
    threads[2].join(0.1)
    assert taken == [0, 1]
    held[1].free()
    threads[2].join()
    assert taken == [0, 1, 2]


def test_who_comes_first_waits_for_those_before_it(go):
    slots, taken = Slots(2), list[int]()
    first, second = slots.next(), slots.next()
    later = go(second, taken, 2)
    later.join(0.1)
    assert taken == []
    go(first, taken, 1).join()
    later.join()
    assert taken == [1, 2]


def test_who_gives_up_holds_up_nobody(go):
    slots, taken = Slots(1), list[int]()
    first, second = slots.next(), slots.next()
    first.free()
    go(second, taken, 2).join()
    second.free()
    # What it did not take it did not give back either.
    first.take()
    third = slots.next()
    waiting = go(third, taken, 3)
    waiting.join(0.1)
    assert taken == [2]
    first.take()
    first.free()
    waiting.join()
    assert taken == [2, 3]
