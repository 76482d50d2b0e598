"""Crashes of processes and servers, and lines that are cut at every message."""
