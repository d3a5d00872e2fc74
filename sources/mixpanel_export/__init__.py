"""Mixpanel's raw events, each exactly once: the source of the package mixpanel-pipeline."""

from collections.abc import Iterable
from typing import Any

import dlt
from dlt.extract import DltResource

from mixpanel_pipeline import mixpanel_source


@dlt.source(name="mixpanel_export", section="mixpanel_export")
def mixpanel_export(
    project_id: str = dlt.config.value,
    service_account_username: str = dlt.secrets.value,
    service_account_secret: str = dlt.secrets.value,
    region: str = "us",
    timezone: str = "UTC",
    **settings: Any,
) -> Iterable[DltResource]:
    """What is new in Mixpanel's Raw Event Export; see `mixpanel_pipeline.mixpanel_source`.

    Args:
        project_id: The project's id.
        service_account_username: Of a service account that may read the project.
        service_account_secret: Its secret.
        region: `us`, `eu` or `in`.
        timezone: Of a project created before 2023, that of its Project Settings.
        settings: What else `mixpanel_source` takes, as `from_date` and `to_date`. Of these, what is
            configured is read in section `sources.mixpanel`.
    """
    source = mixpanel_source(
        project_id=project_id,
        service_account_username=service_account_username,
        service_account_secret=service_account_secret,
        region=region,
        timezone=timezone,
        **settings,
    )
    return tuple(source.resources.values())
