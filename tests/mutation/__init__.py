"""Mutation testing: small faults are planted in a module, one at a time; its tests must notice."""
