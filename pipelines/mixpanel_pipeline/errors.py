"""Failures of a sync that its user is told about in one message."""

import errno

_AGAIN = "It is safe to run again."
_MEND = "Running again brings the same: mend that first, then run again."
# The same names in psycopg2, ADBC and DuckDB, by PEP 249; those that are not here may pass.
_LASTING = {"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError"}
_DUCKDB = {
    "IOException": "Check the file, the rights to it and its folder, and the room on the disk; "
    "then run again.",
    "OutOfMemoryException": "Give the sync more memory, then run again.",
    "PermissionException": _MEND,
}
_OS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room on the disk, then run again."),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR), _MEND
    ),
}


class SyncError(Exception):
    """The sync could not be done; the message says what happened and what to do."""


def what_to_do(error: BaseException) -> str:
    """What to do about a failure of a database or of the machine: whether running again helps."""
    if isinstance(error, OSError):
        return _OS.get(error.errno or 0, _AGAIN)
    names = [kind.__name__ for kind in type(error).__mro__]
    if _LASTING.intersection(names):
        return _MEND
    return next((_DUCKDB[name] for name in names if name in _DUCKDB), _AGAIN)


class AnotherSyncIsRunning(Exception):
    """Another sync holds the dataset; the message says who."""
