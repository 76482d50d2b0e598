"""Power loss, failing disks, kills of processes and servers, lines cut at every message: on the real
stores and their real files."""
