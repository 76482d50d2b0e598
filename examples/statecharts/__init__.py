"""Four statecharts: fetch, user, media player, auth."""

from __future__ import annotations

from examples.statecharts.auth import AUTH
from examples.statecharts.fetch import FETCH
from examples.statecharts.player import PLAYER
from examples.statecharts.user import USER

CHARTS = (FETCH, USER, PLAYER, AUTH)

__all__ = ["AUTH", "CHARTS", "FETCH", "PLAYER", "USER"]
