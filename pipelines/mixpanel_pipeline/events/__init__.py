"""What an event is: its schema, its identity and how it is decoded. Pure."""
