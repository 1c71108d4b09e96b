"""Work spread over processes of this machine, or over a Ray cluster; a worker that is killed takes nothing else with it.

A worker does one task at a time. When its process dies (killed, out of memory, a crash in native code) the task is tried once
more in a new process, and then given up; the others never notice. Python's own pools lose everything in that case.
"""

import errno
import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from joyhallo.errors import UserError

MAX_TRIES = 2
Work = Callable[[Any], Any]
_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AssertionError, AttributeError, OSError)
# One thread each: there are as many workers as cores.
_ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Answer:
    """What became of a task."""

    task: Any
    result: Any = None
    problem: str | None = None  # why there is no result: the error, or that its process was killed


@dataclass(frozen=True)
class _Ended:
    """What a worker reports: a result, or an error. `is_fatal` stops everything, `is_dead` is worth another try."""

    result: Any = None
    problem: str | None = None
    is_fatal: bool = False
    is_dead: bool = False


class Worker(Protocol):
    """A process that does one task at a time."""

    def give(self, task: Any) -> None:  # noqa: ANN401
        """Start a task."""
        ...

    def collect(self) -> _Ended:
        """How the task ended; called once it has."""
        ...

    def stop(self) -> None:
        """End the process, whatever it does."""
        ...


class Crew(Protocol):
    """Where workers come from."""

    def hire(self) -> Worker:
        """A new process, which builds what it needs when it gets its first task."""
        ...

    def wait_for(self, workers: Sequence[Any]) -> list[Any]:
        """Those of the busy `workers` that have ended their task or died; blocks until there is one."""
        ...


def run_all(crew: Crew, tasks: Sequence[Any], num_workers: int) -> Iterator[Answer]:
    """Do all tasks, `num_workers` at a time; answers come as they are ready, each task has one.

    Raises
    ------
    UserError : one that a worker raised: what the user has to mend before anything can go on (a full disk, a missing model).
    """
    waiting = deque((task, 1) for task in tasks)
    busy: dict[Worker, tuple[Any, int]] = {}
    idle: list[Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < num_workers:
                worker = idle.pop() if idle else crew.hire()
                busy[worker] = waiting.popleft()
                worker.give(busy[worker][0])
            for worker in crew.wait_for(list(busy)):
                ended = worker.collect()
                task, number = busy.pop(worker)
                if ended.is_dead:
                    worker.stop()
                else:
                    idle.append(worker)
                if ended.is_fatal:
                    raise UserError(ended.problem or "")
                if ended.is_dead and number < MAX_TRIES:
                    waiting.appendleft((task, number + 1))
                else:
                    yield Answer(task, ended.result, ended.problem)
    finally:
        for worker in (*busy, *idle):
            worker.stop()


def attempt(work: Work, task: Any) -> _Ended:  # noqa: ANN401
    """Do a task in this process. An error of the program or of the data belongs to the task; a UserError stops everything."""
    import cv2

    try:
        return _Ended(work(task))
    except UserError as problem:
        return _Ended(problem=str(problem), is_fatal=True)
    except MemoryError:
        return _Ended(problem="there is not enough memory for it")
    except (*_ERRORS, cv2.error) as problem:
        line = " ".join(str(problem).split())[:200]
        is_full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _Ended(problem=f"{type(problem).__name__}: {line}", is_fatal=is_full)


class LocalCrew:
    """Processes of this machine, started afresh (not forked: networks with threads would not survive it)."""

    def __init__(self, build: Callable[[], Work]) -> None:
        """`build` is called once in every process; picklable."""
        self._build = pickle.dumps(build)  # unpickled, and so imported, only when the process has its settings

    def hire(self) -> "_LocalWorker":
        return _LocalWorker(self._build)

    def wait_for(self, workers: Sequence["_LocalWorker"]) -> list["_LocalWorker"]:
        by_connection = {worker.connection: worker for worker in workers}
        return [by_connection[ready] for ready in wait(list(by_connection))]  # type: ignore[index]


class _LocalWorker:
    def __init__(self, build: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, build), daemon=True)
        self.process.start()
        theirs.close()  # so that ours says when the process is gone

    def give(self, task: Any) -> None:  # noqa: ANN401
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):  # it died idle; `collect` says so
            return

    def collect(self) -> _Ended:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            cause = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return _Ended(problem=f"its process {cause} (out of memory?)", is_dead=True)

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(connection: Connection, build: bytes) -> None:
    """What a local worker does until its owner hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner hears it too, and decides
    os.environ.update(_ONE_THREAD)
    work: Work | None = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if work is None:
            started = attempt(lambda _: pickle.loads(build)(), None)
            if started.problem:
                connection.send(_Ended(problem=started.problem, is_fatal=True))
                continue
            work = started.result
        assert work is not None
        connection.send(attempt(work, task))


class RayCrew:
    """Processes of a Ray cluster: the one that RAY_ADDRESS names, else one started on this machine.

    Every node must see the same files at the same paths. Raises UserError when Ray is not installed.
    """

    def __init__(self, build: Callable[[], Work]) -> None:
        try:
            import ray
        except ImportError as problem:
            raise UserError("the engine 'ray' needs Ray: pip install 'joyhallo[cluster]', or use --engine local") from problem
        self.ray: Any = ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        self.num_cpus = int(ray.cluster_resources().get("CPU", 1))
        options = {"num_cpus": 1, "max_restarts": 0, "runtime_env": {"env_vars": _ONE_THREAD}}
        self._actor = ray.remote(**options)(_RayServant)
        self._build = build

    def hire(self) -> "_RayWorker":
        return _RayWorker(self.ray, self._actor.remote(self._build))

    def wait_for(self, workers: Sequence["_RayWorker"]) -> list["_RayWorker"]:
        by_future = {worker.future: worker for worker in workers}
        ready, _ = self.ray.wait(list(by_future), num_returns=1)
        return [by_future[future] for future in ready]


class _RayServant:
    """Lives in a Ray process; the same as `_serve`."""

    def __init__(self, build: Callable[[], Work]) -> None:
        self._build, self._work = build, None

    def do(self, task: Any) -> _Ended:  # noqa: ANN401
        if self._work is None:
            started = attempt(lambda _: self._build(), None)
            if started.problem:
                return _Ended(problem=started.problem, is_fatal=True)
            self._work = started.result
        return attempt(self._work, task)


class _RayWorker:
    def __init__(self, ray: Any, actor: Any) -> None:  # noqa: ANN401
        self._ray, self._actor = ray, actor
        self.future: Any = None

    def give(self, task: Any) -> None:  # noqa: ANN401
        self.future = self._actor.do.remote(task)

    def collect(self) -> _Ended:
        try:
            return self._ray.get(self.future)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.WorkerCrashedError) as problem:
            cause = " ".join(str(problem).split())[:300]
            return _Ended(problem=f"its process was killed or did not start (out of memory?): {cause}", is_dead=True)

    def stop(self) -> None:
        self._ray.kill(self._actor)
