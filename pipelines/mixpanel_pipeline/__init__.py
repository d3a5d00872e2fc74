"""Mixpanel's events and exact counts per subscriber in your own database."""
