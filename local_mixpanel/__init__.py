"""A local Mixpanel: a real HTTP server for the demo, the tests and the benchmarks.

It keeps events in memory, takes them on `/track` and `/import`, delivers them on
`/api/2.0/export`, counts them on `/api/query/events`, and fails on request in the ways that
Mixpanel is known to fail.
"""

from local_mixpanel.app_traffic import traffic
from local_mixpanel.faults import Fault
from local_mixpanel.hot_shards import hot_sharded
from local_mixpanel.rate_limit import RateLimit
from local_mixpanel.server import LocalMixpanel, RecordedRequest

__all__ = ["Fault", "LocalMixpanel", "RateLimit", "RecordedRequest", "hot_sharded", "traffic"]
