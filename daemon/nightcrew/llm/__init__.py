"""Talking to models: the one place of the daemon that speaks HTTP to an endpoint."""
