"""Pictures decoded in parallel, as far as threads and memory allow."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

# A record is the name that messages give a picture, and a call that decodes it.
Record = tuple[str, Callable[[], Any]]
Work = Callable[[int, Callable[[], Any]], Any]


def side_by_side(
    records: Iterable[tuple[int, Record]], work: Work, threads: int, most: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is made of pictures, in their order.

    Args:
        records: number and record of each, the numbers one after the other.
        work: called with a picture's number and its decoding call, in one of the threads.
        threads: how many.
        most: bytes that pictures being decoded, and what was made of those that nobody has taken
            yet, may have together. One picture is decoded however large it is. A record whose call
            has an attribute `before_decoding` is held back: it calls that with its bytes.

    Yields:
        The name, and a call that returns what `work` made or raises what it raised.
    """
    room = _Room(most)

    def bounded(number, load):
        if hasattr(load, "before_decoding"):
            load.before_decoding = lambda size: room.enter(number, size)
        made: Any = ()
        try:
            made = work(number, load)
        finally:
            room.keep(number, sum(getattr(part, "nbytes", 0) for part in made))
        return made

    ahead: deque = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="kclr-decode")
    try:
        for number, (name, load) in records:
            if not ahead:
                room.take_next(number)
            ahead.append((number, name, executor.submit(bounded, number, load).result))
            if len(ahead) > threads:
                yield _next(ahead, room)
        while ahead:
            yield _next(ahead, room)
    finally:
        room.close()
        executor.shutdown(wait=False, cancel_futures=True)


def _next(ahead, room):
    number, name, result = ahead.popleft()
    room.take_next(number)
    return name, result


class _Room:
    """Memory that pictures share; the one that is waited for may always enter."""

    def __init__(self, most):
        self._most, self._first, self._closed = most, -1, False
        self._sizes: dict[int, int] = {}
        self._changed = threading.Condition()

    def enter(self, number, size):
        """Wait until there is room for a picture."""
        with self._changed:
            while not self._closed and number > self._first:
                if sum(self._sizes.values()) + size <= self._most:
                    break
                self._changed.wait()
            if self._closed:
                raise CancelledError
            self._sizes[number] = size

    def keep(self, number, size):
        """A picture is decoded, and this is what is left of it."""
        with self._changed:
            self._sizes[number] = size
            self._changed.notify_all()

    def take_next(self, number):
        """The picture is waited for, and those before it are not needed any more."""
        with self._changed:
            self._first = number
            self._sizes = {held: size for held, size in self._sizes.items() if held >= number}
            self._changed.notify_all()

    def close(self):
        """Nobody needs the pictures any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
