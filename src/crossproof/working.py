"""Signs of life: that something goes on where nothing can say how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from crossproof.errors import printable

__all__ = ("PAUSE", "told", "while_it_lasts", "working")

T = TypeVar("T")

PAUSE = 10.0
"""Seconds between lines about one thing, where there is no terminal to draw on."""


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Shows what is being done while the block lasts, and since when.

    On a terminal a line that moves and goes away; elsewhere a line after every `PAUSE` seconds, so
    that what is quick says nothing.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console()
    if not console.is_terminal:
        with while_it_lasts(lambda seconds: f"{doing}: {seconds:.0f} s so far"):
            yield
        return
    columns = SpinnerColumn(), TextColumn(printable(doing), markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task("", total=None)
        yield


def told(
    items: Iterable[T],
    end: Callable[[T], int],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[T]:
    """The items, with word to `progress` of how much is done: nothing before the first, and after
    each, when the next is asked for, its `end`. From the first on it is known what is left."""
    if progress is not None:
        progress(0, total)
    for item in items:
        yield item
        if progress is not None:
            progress(end(item), total)


@contextmanager
def while_it_lasts(line: Callable[[float], str]) -> Iterator[None]:
    """Prints what `line` makes of the seconds that have passed, every `PAUSE` of them; no line
    where it is empty."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(PAUSE):
            if text := line(time.monotonic() - began):
                print(printable(text), flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
