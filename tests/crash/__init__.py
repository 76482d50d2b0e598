"""Power loss, failing disks and kills, tried on the real SQLite store and its real files."""
