"""Hosts, the lines between them and their database, and what may happen to all of these."""
