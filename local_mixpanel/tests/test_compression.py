import gzip
from collections.abc import Iterator

import pytest

from local_mixpanel.compression import GzipCache, accepts_gzip, gzip_parts

PARTS = [b"first\n" * 1_000, b"second\n" * 1_000]


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, identity", False),
        ("br;q=0, gzip;q=1.0", True),
        ("x-gzip-like", False),
    ],
)
def test_gzip_is_sent_only_to_who_takes_it(header: str | None, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_parts_become_one_gzip_stream() -> None:
    assert gzip.decompress(b"".join(gzip_parts(PARTS))) == b"".join(PARTS)


def unread() -> Iterator[bytes]:
    raise AssertionError("compressed again")
    yield b""


def test_second_answer_comes_from_memory() -> None:
    cache = GzipCache()
    first = list(cache.compressed("key", 1, PARTS))

    assert list(cache.compressed("key", 1, unread())) == first


def test_newer_version_forgets_and_an_older_one_is_not_kept() -> None:
    cache = GzipCache()
    list(cache.compressed("key", 1, PARTS))
    late = cache.compressed("other", 1, PARTS)
    newer = list(cache.compressed("key", 2, [b"new"]))
    list(late)

    assert gzip.decompress(b"".join(newer)) == b"new"
    with pytest.raises(AssertionError, match="compressed again"):
        list(cache.compressed("other", 2, unread()))
    assert gzip.decompress(b"".join(cache.compressed("key", 1, [b"old"]))) == b"old"
    assert list(cache.compressed("key", 2, unread())) == newer


def test_answer_that_was_not_read_to_its_end_is_not_kept() -> None:
    cache = GzipCache()
    next(cache.compressed("key", 1, PARTS))

    with pytest.raises(AssertionError, match="compressed again"):
        list(cache.compressed("key", 1, unread()))


def test_least_recently_used_answer_makes_room() -> None:
    size = len(b"".join(gzip_parts(PARTS)))
    cache = GzipCache(max_bytes=2 * size)
    for key in ("a", "b", "a", "c"):
        list(cache.compressed(key, 1, PARTS))

    list(cache.compressed("a", 1, unread()))
    list(cache.compressed("c", 1, unread()))
    with pytest.raises(AssertionError, match="compressed again"):
        list(cache.compressed("b", 1, unread()))


def test_answer_larger_than_the_memory_is_sent_but_not_kept() -> None:
    cache = GzipCache(max_bytes=10)

    assert gzip.decompress(b"".join(cache.compressed("a", 1, PARTS))) == b"".join(PARTS)
    with pytest.raises(AssertionError, match="compressed again"):
        list(cache.compressed("a", 1, unread()))
