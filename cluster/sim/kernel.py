"""Virtual time: an asyncio event loop that never waits, and one seed from which every choice is drawn.

Whatever is to happen next happens at once, and the clock jumps there. Workflows written for asyncio (the client) run on
it unchanged; the simulator's own events go through `after`, which costs less than a timer handle. Two runs of the same
seed make the same choices in the same order, whatever the hash seed, time zone or locale: tasks and futures hash by
their number, since asyncio keeps some in sets, and the order of a set would otherwise follow their addresses.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Event = tuple[float, int, Callable[..., object] | None, Any]
"""(when, order among all events, callback and its arguments), or a timer handle in place of the arguments."""


class Stuck(Exception):
    """What was to be reached is not reached: a failure of liveness, not of safety."""


class NothingLeft(Stuck):
    """Somebody waits, and nothing will ever happen again."""


class OutOfSteps(Stuck):
    """More events than the run was given."""


class OutOfTime(Stuck):
    """More virtual seconds than the run was given."""


class _Handle(asyncio.TimerHandle):
    """Does what asyncio's own does, without what only debugging needs: a client makes two for each answer."""

    __slots__ = ("arguments", "callback", "context", "loop", "off")

    def __init__(
        self,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        loop: "Kernel",
        context: Context | None,
    ) -> None:
        self.callback = callback
        self.arguments = arguments
        self.loop = loop
        self.context = context if context is not None else copy_context()
        self.off = False

    def cancel(self) -> None:
        self.off = True

    def cancelled(self) -> bool:
        return self.off

    def run(self) -> None:
        try:
            self.context.run(self.callback, *self.arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop.call_exception_handler({"exception": error})


class _Future(asyncio.Future[T]):
    def __init__(self, number: int, loop: "Kernel") -> None:
        super().__init__(loop=loop)
        self._number = number

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[T]):
    def __init__(self, number: int, coroutine: Coroutine[Any, Any, T], loop: "Kernel", context: Context | None) -> None:
        self._number = number
        super().__init__(coroutine, loop=loop, name=f"task {number}", context=context)

    def __hash__(self) -> int:
        return self._number


class Kernel(asyncio.BaseEventLoop):
    """Runs events in the order of their times, and those of one time in the order they were asked for.

    Raises NothingLeft, OutOfSteps or OutOfTime out of `run_until_complete`; what an event raises comes out there too.
    """

    _stopping: bool

    def __init__(self, seed: int, max_steps: int = 2_000_000, max_seconds: float = 3600.0) -> None:
        self.now: float = 0.0
        """Virtual seconds since the run began."""
        self.seed = seed
        self.steps = 0
        self._max_steps = max_steps
        self._max_seconds = max_seconds
        self._events: list[Event] = []
        self._soon: deque[_Handle] = deque()
        self._order = 0
        self._numbers = 0
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._failure: BaseException | None = None
        super().__init__()
        self.set_debug(False)  # whatever the environment says: debugging measures real time
        self.set_task_factory(_make_task)

    # --- choices ---------------------------------------------------------------------------------------------------

    def random(self, name: str) -> random.Random:
        """A stream of choices of its own: what is drawn from one shifts nothing in the others."""
        return random.Random(f"{self.seed} {name}")

    # --- the simulator's own events --------------------------------------------------------------------------------

    def after(self, seconds: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call once `seconds` have passed. Cannot be cancelled: what may grow stale carries what it was set for."""
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, callback, args))

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As `after`, at a virtual time that has not passed."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, callback, args))

    # --- what asyncio asks of an event loop ------------------------------------------------------------------------

    def time(self) -> float:
        """The virtual clock."""
        return self.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call before the clock moves."""
        handle = _Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """There are no other threads in here."""
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a virtual time, unless cancelled before."""
        timer = _Handle(callback, args, self, context)
        self._order += 1
        heapq.heappush(self._events, (max(when, self.now), self._order, None, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call once so many seconds have passed, unless cancelled before."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future that hashes by its number."""
        self._numbers += 1
        return _Future(self._numbers, self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback failed, or a task whose end nobody waits for: the run is over."""
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = AssertionError(context.get("message", "asyncio failed"))
        self._failure = self._failure or error

    def _run_once(self) -> None:
        events, soon, pop = self._events, self._soon, heapq.heappop
        while True:
            while soon:
                handle = soon.popleft()
                if not handle.off:
                    self.steps += 1
                    handle.run()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._stopping:
                return
            if not events:
                raise NothingLeft(f"nothing left to do at {self.now:.3f} s")
            when, _, callback, args = pop(events)
            if when > self._max_seconds:
                raise OutOfTime(f"not done after {self._max_seconds:g} virtual seconds")
            if callback is not None:
                self.now = when
                self.steps += 1
                callback(*args)
            elif not args.off:
                self.now = when
                self.steps += 1
                args.run()
            if self.steps > self._max_steps:
                raise OutOfSteps(f"not done after {self._max_steps} steps")

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel what still runs, in order, and let go of everything."""
        if self.is_closed():
            return
        for task in list(self._tasks.values()):
            task.cancel()
        self._run_to_their_ends()
        self._events.clear()
        self._soon.clear()
        super().close()

    def _run_to_their_ends(self) -> None:
        left = list(self._tasks.values())
        if not left:
            return
        self._events.clear()
        self._failure = None
        self._max_steps = self.steps + 1000 * len(left)
        try:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        except Stuck as stuck:
            raise RuntimeError("a task goes on although it was cancelled") from stuck

    def _made(self, task: "_Task[Any]", number: int) -> None:
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> "_Task[T]":
    assert isinstance(loop, Kernel)
    assert isinstance(coroutine, Coroutine)
    number = loop._next_number()
    task = _Task(number, coroutine, loop, options.get("context"))
    loop._made(task, number)
    return task
