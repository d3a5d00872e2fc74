"""Mixpanel's events and exact counts per subscriber in your own database.

from mixpanel_pipeline import mixpanel_source
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixpanel_pipeline.source.standalone import mixpanel_source

__all__ = ["mixpanel_source"]


def __getattr__(name: str) -> Any:
    # It takes dlt with it, a second that the command's help does not owe.
    if name == "mixpanel_source":
        from mixpanel_pipeline.source.standalone import mixpanel_source

        return mixpanel_source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
