"""Processes that render on the nodes of a Ray cluster, in the place of those of this machine.

The jobs, their table and their folders are the same; every node must see the folder of the jobs and the weights at the same
paths. On a node an actor, which Ray gives its share of the devices, keeps the same process that renders here: one that dies
takes no actor with it, and an actor, a node or the program that dies ends the process at once.
"""

import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from joyhallo.errors import UserError
from joyhallo.serve.child import Child, ChildDiedError, NotWantedError
from joyhallo.serve.settings import Settings

_LOOK_S = 0.5
_MOST_WORKERS = 64
_FORWARDED = ("JOYHALLO_CACHE", "JOYHALLO_WEIGHTS", "HF_ENDPOINT")


@dataclass(frozen=True)
class Share:
    """How a cluster is divided: so many videos at the same time, and what each gets."""

    workers: int
    cpus: int
    gpus: int


def divide(nodes: Sequence[Mapping[str, float]], device: str, workers: int | None = None) -> Share:
    """The share of each video; `nodes` are the resources of each ("CPU", "GPU"). None: one for each GPU, else for each CPU.

    Raises:
        UserError: more is asked for than there is, or a device of a number.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} with --engine ray: give auto, cpu or cuda, for Ray hands out the devices")
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = int(device != "cpu" and num_gpus > 0)
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: no node of the cluster has a GPU: give cpu, or add one")
    most = min(_MOST_WORKERS, num_gpus if gpus else sum(cpus))
    if workers is None:
        workers = max(1, most)
    if workers > most:
        raise UserError(f"--workers is {workers}: the cluster has room for {most} ({num_gpus} GPUs, {sum(cpus)} CPUs)")
    if gpus:
        return Share(workers, 1, 1)
    # As many CPUs for each as fit so often onto the nodes: a worker is never spread over two of them.
    return Share(workers, max(n for n in range(1, max(cpus) + 1) if sum(each // n for each in cpus) >= workers), 0)


class Cluster:
    """The cluster that RAY_ADDRESS names, else one started on this machine.

    Raises:
        UserError: Ray is not installed, the cluster does not answer or has less than is asked for.
    """

    def __init__(self, device: str, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray: pip install 'joyhallo[cluster]', or use --engine local") from error
        self.ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            try:
                ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"the Ray cluster cannot be joined ({reason}): check RAY_ADDRESS") from error
        self.share = divide([node["Resources"] for node in ray.nodes() if node["Alive"]], device, workers)

    def close(self) -> None:
        """Leave the cluster, if it was joined here."""
        if self._is_ours:
            self.ray.shutdown()

    def hire(self, settings: Settings, slot: int) -> "RemoteChild":
        """A process that renders, on whichever node has room; it starts with its first job."""
        variables = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
        options = {
            "num_cpus": self.share.cpus,
            "num_gpus": self.share.gpus,
            "max_restarts": 0,
            "max_concurrency": 2,  # it renders, and says how far it is
            "runtime_env": {"env_vars": {**variables, "OMP_NUM_THREADS": str(self.share.cpus)}},
        }
        actor = self.ray.remote(**options)(_Servant)
        return RemoteChild(self.ray, lambda: actor.remote(str(settings.device_lock), slot))


@contextmanager
def joined(device: str, workers: int | None = None) -> Iterator[Cluster]:
    """A cluster until the block ends. Raises UserError as `Cluster`."""
    cluster = Cluster(device, workers)
    try:
        yield cluster
    finally:
        cluster.close()


class RemoteChild:
    """As `Child`, on a node of the cluster; started when it is first asked and again after it ended."""

    def __init__(self, ray: Any, start: Callable[[], Any]) -> None:  # noqa: ANN401 (the module, and an actor's handle)
        self._ray, self._start = ray, start
        self._actor: Any = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def ask(
        self,
        message: Mapping[str, Any],
        *,
        on_news: Callable[[Mapping[str, Any]], None] = lambda _: None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Mapping[str, Any]:
        """Send a message; `on_news` gets every line before the last, which is returned.

        Raises:
            ChildDiedError, NotWantedError: there is no answer; the process is gone.
        """
        with self._lock, ExitStack() as undo:
            undo.callback(self.kill)
            try:
                answer = self._answer(message, on_news, is_wanted)
            except self._ray.exceptions.RayError as error:
                raise ChildDiedError(f"a process of the cluster ended: {' '.join(str(error).split())[:300]}") from error
            undo.pop_all()
            return answer

    def _answer(
        self, message: Mapping[str, Any], on_news: Callable[[Mapping[str, Any]], None], is_wanted: Callable[[], bool]
    ) -> Mapping[str, Any]:
        if self._actor is None:
            self._actor = self._start()
        actor = self._actor
        number = next(self._numbers)
        ended, news = actor.ask.remote(dict(message), number), actor.news.remote(number)
        while True:
            ready, _ = self._ray.wait([ended, news], num_returns=1, timeout=_LOOK_S)
            if news in ready:
                for each in self._ray.get(news):
                    on_news(each)
                news = actor.news.remote(number)
            if ended in ready:
                return self._ray.get(ended)
            if not is_wanted():
                raise NotWantedError

    def kill(self) -> None:
        """End the process at once."""
        actor, self._actor = self._actor, None
        if actor is not None:
            self._ray.kill(actor)


class _Servant:
    """Lives in a Ray process, beside the process that renders."""

    def __init__(self, lock: str, slot: int) -> None:
        import ray

        gpus = ray.get_gpu_ids()  # numbers or names of this node; the process below sees these devices alone, as its first
        self._child = Child("joyhallo.serve.worker", *((f"{lock}-{gpus[0]}", "0") if gpus else (lock, str(slot))))
        self._news: dict[int, queue.Queue[Mapping[str, Any]]] = {}

    def ask(self, message: Mapping[str, Any], number: int) -> dict[str, Any]:
        self._news.pop(number - 1, None)
        try:
            return dict(self._child.ask(message, on_news=self._told(number).put))
        except ChildDiedError as error:
            return {"end": "broken", "note": str(error)}

    def news(self, number: int) -> list[Mapping[str, Any]]:
        """What was said of that message since the last time; waits a moment for it."""
        told = self._told(number)
        try:
            said = [told.get(timeout=1.0)]
        except queue.Empty:
            return []
        while not told.empty():
            said.append(told.get())
        return said

    def _told(self, number: int) -> queue.Queue[Mapping[str, Any]]:
        """A message has its own, so that nothing said of one is taken for the next; either call may come first."""
        return self._news.setdefault(number, queue.Queue())
