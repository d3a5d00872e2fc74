"""What is said about a failure: running again is advised only where it can help."""

import errno
import os

import duckdb
import psycopg2
import pytest

from mixpanel_pipeline.engines.postgres_connection import told
from mixpanel_pipeline.errors import what_to_do


def _full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _reset(_):
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


@pytest.mark.parametrize(
    ("of", "advice"),
    [
        (lambda missing: duckdb.connect(missing / "x.duckdb"), "Check the file"),
        (lambda _: duckdb.connect().execute("select nothing"), "mend that first"),
        (lambda missing: missing.read_bytes(), "mend that first"),
        (_full, "Make room"),
        (_reset, "It is safe to run again."),
    ],
)
def test_to_run_again_is_advised_where_it_can_help(tmp_path, of, advice):
    with pytest.raises((duckdb.Error, OSError)) as failure:
        of(tmp_path / "missing")
    assert advice in what_to_do(failure.value)


def test_a_connection_that_is_refused_says_what_to_check_and_one_that_is_lost_to_run_again():
    with pytest.raises(psycopg2.OperationalError) as refused:
        psycopg2.connect(host="127.0.0.1", port=1, user="a", password="b", dbname="c")
    assert "[destination.postgres.credentials]; then run again." in told(refused.value)
    lost = psycopg2.OperationalError("server closed the connection unexpectedly")
    assert told(lost).endswith("It is safe to run again.")
