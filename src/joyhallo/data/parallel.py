"""The same work on many things, in several processes, one thing after the other as they are done."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from joyhallo.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 3  # tasks a worker has waiting: few, so that a stop is quick

_work: Callable[[Any], Any] | None = None  # what this process does with a task; set once, when a worker starts


def each(start: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], num_workers: int) -> Iterator[Result]:
    """The results of all tasks, in the order in which they are done.

    Parameters
    ----------
    start : called once in every process; gives what does one task. It and the tasks must be picklable.
    num_workers : processes; with one, everything happens in this one, in the order of the tasks.

    Raises
    ------
    UserError : a process was killed from outside, as happens when memory runs out.
    """
    if num_workers <= 1 or len(tasks) <= 1:
        yield from map(start() if tasks else iter, tasks)
        return
    # Not forked: networks that already run threads here would not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=context, initializer=_begin, initargs=(start,)) as pool:
        waiting: set[Future[Result]] = set()
        left = iter(tasks)
        try:
            while True:
                while len(waiting) < _AHEAD * num_workers and (task := next(left, None)) is not None:
                    waiting.add(pool.submit(_do, task))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as problem:
            raise UserError(
                "a worker was killed, probably for want of memory: run the same command again to go on, with fewer --workers"
            ) from problem
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(start: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    _work = start()


def _do(task: Any) -> Any:  # noqa: ANN401
    assert _work is not None  # `_begin` ran first
    return _work(task)
