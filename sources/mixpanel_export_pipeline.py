"""Load what is new in Mixpanel: run it again and again."""

import dlt
from mixpanel_export import mixpanel_export


def load() -> None:
    """Load the days that are configured, then whole days from the newest event on."""
    pipeline = dlt.pipeline(
        "mixpanel_export", destination="duckdb", dataset_name="mixpanel_raw", progress="log"
    )
    print(pipeline.run(mixpanel_export()))


if __name__ == "__main__":
    load()
