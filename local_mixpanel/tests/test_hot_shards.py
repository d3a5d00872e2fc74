import copy
import json

import pytest

from local_mixpanel import hot_sharded
from local_mixpanel.tests.conftest import DAY


def test_event_of_a_hot_shard_keeps_what_it_was(event):
    hot = hot_sharded(event("App Opened", 5, distinct_id="ada", plan="pro"))

    assert hot == event(
        "$hotshard_events",
        5,
        distinct_id="",
        plan="pro",
        mp_original_event_name="App Opened",
        mp_original_distinct_id="ada",
    )


def test_original_event_stays(event):
    original = event(distinct_id="ada")
    before = copy.deepcopy(original)
    hot_sharded(original)
    assert original == before


def test_event_of_a_hot_shard_is_exported_by_its_new_name(mixpanel, export, event):
    mixpanel.add([hot_sharded(event(distinct_id="ada"))])

    assert export(event='["App Opened"]').content == b""
    line = export(event='["$hotshard_events"]').content
    assert json.loads(line)["properties"]["mp_original_distinct_id"] == "ada"
    assert mixpanel.delete({"ada"}) == 0
    assert len(mixpanel.lines(DAY, DAY)) == 1


def test_event_of_nobody_is_in_no_hot_shard(event):
    with pytest.raises(KeyError, match="distinct_id"):
        hot_sharded(event())
