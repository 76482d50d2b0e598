"""Power loss, failing disks, kills of processes and servers, lines cut at every message.

On the real stores and their real files.
"""
