"""Specifications that TLC checks, beside those that are made from code (`make formal`)."""
