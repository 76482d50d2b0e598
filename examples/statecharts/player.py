"""Media player: three regions side by side, one job, one CID for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stmflow.statechart import Chart, Parallel, State, Stay


@dataclass(frozen=True, slots=True)
class Screen:
    name: str


@dataclass(frozen=True, slots=True)
class Play:
    screen: str


@dataclass(frozen=True, slots=True)
class Pause:
    screen: str


@dataclass(frozen=True, slots=True)
class Stop:
    screen: str


@dataclass(frozen=True, slots=True)
class Mute:
    screen: str


@dataclass(frozen=True, slots=True)
class Unmute:
    screen: str


@dataclass(frozen=True, slots=True)
class Fullscreen:
    screen: str


@dataclass(frozen=True, slots=True)
class ExitFullscreen:
    screen: str


BUTTONS: Final = (Play, Pause, Stop, Mute, Unmute, Fullscreen, ExitFullscreen)

PLAYER: Final = Chart(
    "player",
    data=Screen,
    start=lambda event: Screen(event.screen),
    events=BUTTONS,
    key=("screen",),
    on={button: Stay() for button in BUTTONS},
    states=(
        Parallel(
            "player",
            states=(
                State(
                    "playback",
                    states=(
                        State("stopped", on={Play: "playing"}),
                        State("playing", on={Pause: "paused", Stop: "stopped"}),
                        State("paused", on={Play: "playing", Stop: "stopped"}),
                    ),
                ),
                State(
                    "volume",
                    states=(
                        State("normal", on={Mute: "muted"}),
                        State("muted", on={Unmute: "normal"}),
                    ),
                ),
                State(
                    "window",
                    states=(
                        State("windowed", on={Fullscreen: "fullscreen"}),
                        State("fullscreen", on={ExitFullscreen: "windowed"}),
                    ),
                ),
            ),
        ),
    ),
)
