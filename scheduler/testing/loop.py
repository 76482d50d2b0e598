"""The virtual world's event loop: time jumps, chance is seeded, and a process can just vanish.

Production code runs on it unchanged, under anyio. When nothing is ready it jumps to the next
timer; among what is ready the seed's generator picks. Every handle bears the simulated process in
whose context it was made: a crash discards what a process still had to run, and runs no `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import warnings
from bisect import insort
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, TypeVar

from anyio._backends import _asyncio as anyio_backend

T = TypeVar("T")

_REMEMBERED: Final = getattr(anyio_backend, "_task_states", {})
"""anyio's notes of tasks: held weakly, but each note holds its task, so of one that never ends they
are kept for ever (0.3 MiB for each world). Nothing public forgets them."""

EPOCH_MS: Final = 1_800_000_000_000
"""What a clock without skew shows when the world begins."""

_NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)
_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stuck(Exception):
    """No progress: nothing can ever run again, or too much runs and time stands still."""


class Lost(Exception):
    """The process that was asked is gone, or has not answered in time."""


class Process:
    """Something that can crash, and be held back for a while.

    `timer_rate` stretches the process's own timers: 0.9 fires them a tenth too early.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.timer_rate = 1.0
        self.held: list[_Entry] = []

    def __repr__(self) -> str:
        return f"Process({self.name!r})"


_Entry = tuple[int, int, asyncio.Handle, Process | None]


class _Task(asyncio.Task[Any]):
    """A task that hashes to its number, so that sets of tasks have one order in every run."""

    def __init__(self, number: int, *args: Any, **kwargs: Any) -> None:
        self._number = number
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for meanwhile: a world is short, and that took a seventh of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class VirtualLoop(asyncio.BaseEventLoop):
    """One seeded, single-threaded world.

    Args:
        random: picks which of the ready callbacks runs next.
        max_steps: callbacks run before the world counts as stuck.
    """

    def __init__(self, random: Random, *, max_steps: int = 200_000) -> None:
        super().__init__()
        self._random = random
        self._max_steps = max_steps
        self._now = 0.0
        self._since = 0
        self._made = 0
        self._line: list[_Entry] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process | None]] = []
        self._tasks: list[_Task] = []
        self._over = False
        self.steps = 0
        self.watch: Callable[[int], None] | None = None
        self.errors: list[str] = []
        self.set_task_factory(self._task)
        self.set_exception_handler(self._complain)

    # --- processes

    def spawn(self, process: Process | None, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as part of that process."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, process)
        return self.create_task(coroutine, context=context)

    @staticmethod
    def current() -> Process | None:
        """The process of the running code."""
        return _PROCESS.get()

    def crash(self, process: Process) -> None:
        """Nothing of that process runs ever again."""
        process.dead = True
        process.held.clear()

    def pause(self, process: Process) -> None:
        """Hold back whatever that process would run."""
        process.paused = True

    def resume(self, process: Process) -> None:
        """Run what was held back."""
        process.paused = False
        held, process.held = process.held, []
        for entry in held:
            insort(self._line, entry)

    async def die(self) -> None:
        """Crash the running process, here and now: does not return."""
        process = self.current()
        assert process is not None
        self.crash(process)
        await self.create_future()

    def skip(self, seconds: float) -> None:
        """Let so much time go by at once, as for machines that were asleep."""
        self._now += seconds

    # --- what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Run the callback when the seed says so."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self._over:
            self._enter(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Run the callback at that time, by the clock of the process that asks."""
        process = _PROCESS.get()
        if process is not None and when > self._now:
            when = self._now + (when - self._now) * process.timer_rate
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer, process))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _enter(self, handle: asyncio.Handle) -> None:
        context: contextvars.Context = handle._context  # type: ignore[attr-defined]
        self._made += 1
        entry = (context.get(_NUMBER, 0), self._made, handle, context.get(_PROCESS))
        insort(self._line, entry)

    def _run_once(self) -> None:
        """Run one callback; jump to the next timer where nothing is ready."""
        line = self._line
        while True:
            if self._timers and self._timers[0][0] <= self._now:
                self._due()
            if not line:
                self._jump()
                continue
            entry = line.pop(int(self._random.random() * len(line)))
            handle, process = entry[2], entry[3]
            if handle.cancelled() or (process is not None and process.dead):
                continue
            if process is not None and process.paused:
                process.held.append(entry)
                continue
            break
        self.steps += 1
        if self.steps > self._max_steps or self.steps - self._since > 50_000:
            raise Stuck(f"{self.steps} steps, virtual time {self._now:.3f} s")
        if self.watch is not None:
            self.watch(self.steps)
            if process is not None and process.dead:
                return
        handle._run()

    def _due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                self._enter(timer)

    def _jump(self) -> None:
        timers = self._timers
        while timers and (timers[0][2].cancelled() or (timers[0][3] and timers[0][3].dead)):
            heapq.heappop(timers)
        if not timers:
            raise Stuck("nothing is left that could run")
        self._now = max(self._now, timers[0][0])
        self._since = self.steps

    def _task(
        self, loop: Any, coroutine: Any, *, context: contextvars.Context | None = None, **rest: Any
    ) -> _Task:
        context = contextvars.copy_context() if context is None else context.copy()
        self._made += 1
        context.run(_NUMBER.set, self._made)
        task = _Task(self._made, coroutine, loop=loop, context=context, **rest)
        self._tasks.append(task)
        if len(self._tasks) % 1_024 == 0:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def _complain(self, loop: Any, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def close(self) -> None:
        """End the world, and quietly bury the coroutines that crashes left behind."""
        self._over = True
        self._line.clear()
        self._timers.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "never awaited": as it should be
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _bury(task.get_coro())
                    _REMEMBERED.pop(task, None)
            self._tasks.clear()
        super().close()


def _bury(coroutine: Any) -> None:
    """Close a suspended coroutine whose `finally` blocks may await or raise."""
    for _ in range(64):
        try:
            coroutine.close()
            return
        except BaseException:
            continue


class VirtualClock:
    """A process's wall clock: wrong by `skew_ms`, or stopped.

    It implements `stmflow.clock.Clock`; `latest` is the latest time that it ever showed. It
    sleeps in grains: the coarser, the later sleepers wake and the fewer steps an idle world costs.
    """

    def __init__(self, loop: VirtualLoop, skew_ms: int = 0, *, grain_ms: int = 1) -> None:
        self._loop = loop
        self._grain_ms = grain_ms
        self.skew_ms = skew_ms
        self.frozen: int | None = None
        self.latest = 0

    def now(self) -> int:
        """What this clock shows, in milliseconds."""
        if self.frozen is not None:
            return self.frozen
        shown = EPOCH_MS + int(self._loop.time() * 1_000) + self.skew_ms
        self.latest = max(self.latest, shown)
        return shown

    async def sleep_until(self, at_ms: int) -> None:
        """Return when this clock shows `at_ms` or later."""
        left_ms = at_ms - self.now()
        if left_ms <= 0:
            await asyncio.sleep(0)
        while left_ms > 0:
            await asyncio.sleep(min(max(left_ms, self._grain_ms), 60_000) / 1_000)
            left_ms = at_ms - self.now()
