"""Spark on this machine: a cluster, a demonstration and the tests of it."""
