"""One sync of Mixpanel into a database, from the lock to the summary."""
