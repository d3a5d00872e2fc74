"""Failures of a sync that its user is told about in one message."""


class SyncError(Exception):
    """The sync could not be done; the message says what happened and what to do."""


class AnotherSyncIsRunning(Exception):
    """Another sync holds the dataset; the message says who."""
