"""The soak: a load of hours under kills, and whether everything is exact afterwards."""
