"""A directory for the PYTHONPATH of other connectors, see `benchmarks.peers`."""
