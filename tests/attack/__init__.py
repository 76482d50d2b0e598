"""Attacks on a service: each is refused by its name, and nothing is written."""
