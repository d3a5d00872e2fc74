"""Mixpanel's events and exact counts per subscriber in your own database.

    from mixpanel_pipeline import sync

    summary = sync()

does what the command does, with what is configured for it; `audit()` compares what is loaded with
Mixpanel's own counts; `dbt_environment()` is what dbt needs to build the models under a scheduler;
`mixpanel_source()` is the source alone, for a dlt pipeline of one's own. What is not configured
right is a `ConfigurationError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel_pipeline.runs.pipeline import audit, sync
    from mixpanel_pipeline.runs.transform import dbt_environment
    from mixpanel_pipeline.source.errors import ConfigurationError
    from mixpanel_pipeline.source.standalone import mixpanel_source

__all__ = ["ConfigurationError", "audit", "dbt_environment", "mixpanel_source", "sync"]

_MODULES = {
    "ConfigurationError": "mixpanel_pipeline.source.errors",
    "audit": "mixpanel_pipeline.runs.pipeline",
    "dbt_environment": "mixpanel_pipeline.runs.transform",
    "mixpanel_source": "mixpanel_pipeline.source.standalone",
    "sync": "mixpanel_pipeline.runs.pipeline",
}


def __getattr__(name: str) -> Any:
    # They take dlt with them, a second that the command's help does not owe.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
