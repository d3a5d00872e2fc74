"""dlt's settings during a sync: ours alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import CustomLoaderDocProvider
from dlt.common.configuration.specs.config_providers_context import ConfigProvidersContainer
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

# What correctness or memory depends on; all else is dlt's default.
_OURS = {
    # A job that is tried again after its rows were committed, unseen, would write them twice.
    "load": {"raise_on_max_retries": 1},
    "normalize": {"parquet_normalizer": {"add_dlt_load_id": True}},
    # An Arrow table is a batch already; collecting 5,000 rows of 1 MB would take 5 GB.
    "data_writer": {"buffer_max_items": 1},
    # dlt would take a signal for itself, and forget it when a step ends before it looks.
    "runtime": {"intercept_signals": False},
    "schema": {"naming": "snake_case"},
}


@contextmanager
def only_ours() -> Iterator[None]:
    """Hides from dlt all that is configured for it, in the environment or in files.

    `REFRESH`, `DEV_MODE`, `DATASET_NAME_LAYOUT` and many more, meant for another pipeline or left
    over, would drop what is loaded, load elsewhere, or load twice. What concerns a sync, its own
    settings and the connection, has been read before.
    """
    context = Container()[PluggableRunContext]
    configured = context.providers
    context.providers = ConfigProvidersContainer(
        [CustomLoaderDocProvider("the sync", lambda: _OURS)]
    )
    try:
        yield
    finally:
        context.providers = configured
