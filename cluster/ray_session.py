"""Starting and ending Ray, on loopback unless a cluster is named."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil

from semtag.cluster.placement import Node, check_fits, needs_of, node_of
from semtag.cluster.progress import Counts, Progress
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.background import repeating
from semtag.store.locations import socket_folder
from semtag.store.process_cleanup import RAY, end_as_well, end_with_this

# Ray replaces a node address of 127.0.0.1 by the machine's own and then listens on every interface, unless it is told
# (by a switch named for other systems, read when Ray is imported) that it will never be part of a cluster.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1"}
SILENCE = 30.0  # seconds that an answer of the cluster is waited for, where only progress hangs on it
GROWN_NODES = 100  # of a group without a limit, when asking whether a growing cluster can hold a run


@contextlib.contextmanager
def ray_session(config: Config, actors: bool = True, cpus: int = 0) -> Iterator[None]:
    """Ray for the length of the block: a private one on 127.0.0.1, or the cluster at `cluster.address`.

    Without `actors` the block runs something else, and a private Ray has as many CPUs as the machine, or `cpus` if that
    is more. Raises UserError when there is no such cluster or it cannot hold the actors.
    """
    with contextlib.ExitStack() as stack:
        folder = ""  # around that of a private Ray, which opens its own to all users of the machine
        if config.cluster.address == "local":
            scratch = tempfile.TemporaryDirectory(prefix="semtag-", dir=socket_folder(), ignore_cleanup_errors=True)
            folder = stack.enter_context(scratch)
        watch = stack.enter_context(end_with_this([], folder))
        _start(config, _local_cpus(config) if actors else max(os.cpu_count() or 1, cpus), folder)
        # Two agents of a private Ray outlive a killed process by a minute: they wait for a server that is gone as well,
        # and their titles hide what environment they began with.
        started = psutil.Process().children(recursive=True)
        end_as_well(watch, (process for process in started if process.pid != watch.pid))
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        try:
            if actors:
                check_fits(needs_of(config), nodes_there(), place(config))
            yield
        finally:
            ray.shutdown()


def nodes_to_use(config: Config) -> list[Node]:
    """The nodes that a run would use: this machine as a local Ray would see it, or those of the cluster, asked."""
    if config.cluster.address == "local":
        gpus, kind = _own_gpus() if any(need.gpus for need in needs_of(config)) else (0, None)
        return [Node(_local_cpus(config), gpus, frozenset({kind} if kind else ()))]
    with ray_session(config, actors=False):
        return nodes_there()


def place(config: Config) -> str:
    """Where the run takes place, for messages."""
    address = config.cluster.address
    return "this machine" if address == "local" else f"the cluster at cluster.address={address}"


def _start(config: Config, local_cpus: int, folder: str) -> None:
    address, options = config.cluster.address, dict[str, Any]()
    if address.startswith(("local", "127.")):
        os.environ |= LOOPBACK
    if address == "local":
        # Ray starts its workers with a niceness of 15, so that engines come after its own housekeeping.
        os.environ.setdefault("RAY_worker_niceness", "0")
        store = int(config.cluster.object_store_gb * 2**30)
        options = {"num_cpus": local_cpus, "object_store_memory": store, "_temp_dir": f"{folder}/r"}
        os.environ[RAY] = folder
    else:
        _check_answers(address)
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, include_dashboard=False, logging_level="warning", **options)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"No Ray cluster lets us in at {address}: {error}",
            "Check cluster.address; a cluster with a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH here.",
        ) from None
    finally:
        os.environ.pop(RAY, None)  # what this process starts by itself is not Ray's


def _check_answers(address: str) -> None:
    """Ray itself would wait for ever for a cluster that does not answer."""
    if "://" in address:
        raise UserError(
            f"cluster.address={address} is no address of a cluster's head.",
            "Write HOST:PORT (6379), on one of its nodes, or auto there; `semtag submit` sends a job from elsewhere.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(f"No Ray cluster answers at {address}: {error}", "Check cluster.address.") from None


def _local_cpus(config: Config) -> int:
    """Logical CPUs of a private Ray, more than the machine has: actors wait for each other more than they compute."""
    return config.cluster.cpus or max(os.cpu_count() or 1, sum(need.most for need in needs_of(config)) + 4)


def _own_gpus() -> tuple[int, str | None]:
    """Number and kind of this machine's GPUs, as Ray counts them when it starts."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    gpus = get_accelerator_manager_for_resource("GPU")
    visible, found = gpus.get_current_process_visible_accelerator_ids(), gpus.get_current_node_num_accelerators()
    return found if visible is None else min(found, len(visible)), gpus.get_current_node_accelerator_type()


def nodes_there() -> list[Node]:
    """The living nodes of the Ray that is joined, and where it grows by itself those that it may add."""
    import ray
    from ray._private.state import state

    nodes = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    growth = state.get_cluster_config()
    for group in growth.node_group_configs if growth else ():
        # A negative count is no limit. Nodes of a group that live already count twice: better than to refuse a run
        # that would find its place.
        count = group.max_count if group.max_count >= 0 else GROWN_NODES
        nodes += [node_of(dict(group.resources))] * count
    return nodes


class Tally:
    """What workers have done, summed in an actor, which the driver shows as progress."""

    def __init__(self, texts: int = 0) -> None:
        import ray

        class _Sum:
            def __init__(self) -> None:
                self.value = Counts(texts=texts)

            def add(self, by: Counts) -> None:
                self.value += by

            def total(self) -> Counts:
                return self.value

        self.actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Sum).remote()
        self._kept, self._sent = Counts(), 0.0

    def add(self, by: Counts, at_once: bool = False) -> None:
        """Add without waiting; called in workers. What comes within a second is sent together, unless `at_once`."""
        self._kept += by
        if at_once or time.monotonic() - self._sent > 1.0:
            self.actor.add.remote(self._kept)
            self._kept, self._sent = Counts(), time.monotonic()

    def total(self) -> Counts:
        """The sum as it is now. Raises ray.exceptions.GetTimeoutError when the cluster says nothing for long."""
        import ray

        return ray.get(self.actor.total.remote(), timeout=SILENCE)

    @contextlib.contextmanager
    def shown(self, progress: Progress) -> Iterator[None]:
        """Show the sum on `progress` while the block runs, and once more at its end; a silent cluster ends no block."""
        import ray

        def show() -> None:
            progress.show(self.total(), sum(node["Alive"] for node in ray.nodes()))

        with repeating(show, every=1.0, at_end=True):
            yield
