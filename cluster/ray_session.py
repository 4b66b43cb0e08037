"""The start and the end of Ray: a private Ray on loopback, or a connection to the cluster at cluster.address."""

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
from semtag.store.process_cleanup import RAY, kill_as_well, kill_when_parent_ends

# By default Ray replaces the address 127.0.0.1 by the machine's own, and then listens on every interface. The first
# switch, named for other systems, tells Ray that it never joins a cluster. Ray reads the switch when it is imported.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1"}
SILENCE = 30.0  # seconds to wait for the sum of counts, which only the progress display needs
CPUS_A_FOOTER_READER = 8  # a reader reads 128 footers at a time, so a few of them serve a cluster
GROWN_NODES = 100  # nodes that the check of room assumes for an autoscaling group without a limit


@contextlib.contextmanager
def ray_session(config: Config, actors: bool = True, cpus: int = 0) -> Iterator[None]:
    """Start or join Ray for the length of the block: a private Ray on 127.0.0.1, or the cluster at cluster.address.

    With `actors`, checks that the nodes have room for sampling and scoring. Without `actors`, a private Ray has the
    machine's CPUs, or `cpus` if larger. Raises UserError when the cluster does not answer or lacks room.
    """
    with contextlib.ExitStack() as stack:
        folder = ""  # parent of a private Ray's folder, because Ray opens its folder to all users of the machine
        if config.cluster.address == "local":
            scratch = tempfile.TemporaryDirectory(prefix="semtag-", dir=socket_folder(), ignore_cleanup_errors=True)
            folder = stack.enter_context(scratch)
        watch = stack.enter_context(kill_when_parent_ends([], folder))
        _start(config, _local_cpus(config) if actors else max(os.cpu_count() or 1, cpus), folder)
        # Two agents of a private Ray outlive a killed process by a minute, because they wait for a server that is gone.
        # Their titles hide the environment by which the watch finds processes, so the watch gets their ids.
        started = psutil.Process().children(recursive=True)
        kill_as_well(watch, (process for process in started if process.pid != watch.pid))
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        try:
            if actors:
                check_fits(needs_of(config), live_nodes(), place(config))
            yield
        finally:
            ray.shutdown()


def nodes_to_use(config: Config) -> list[Node]:
    """Return the nodes that a run would use: this machine as a private Ray would see it, or the cluster's nodes.

    Joins the cluster to ask for its nodes. Raises UserError when the cluster does not answer.
    """
    if config.cluster.address == "local":
        gpus, kind = _own_gpus() if any(need.gpus for need in needs_of(config)) else (0, None)
        return [Node(_local_cpus(config), gpus, frozenset({kind} if kind else ()))]
    with ray_session(config, actors=False):
        return live_nodes()


def place(config: Config) -> str:
    """Name the machines of the run for messages: `this machine`, or the cluster with its address."""
    address = config.cluster.address
    return "this machine" if address == "local" else f"the cluster at cluster.address={address}"


def _start(config: Config, local_cpus: int, folder: str) -> None:
    address, options = config.cluster.address, dict[str, Any]()
    if address.startswith(("local", "127.")):
        os.environ |= LOOPBACK
    if address == "local":
        # By default Ray's workers have a niceness of 15, so engines would get CPUs after Ray's own processes.
        os.environ.setdefault("RAY_worker_niceness", "0")
        store = int(config.cluster.object_store_gb * 2**30)
        options = {"num_cpus": local_cpus, "object_store_memory": store, "_temp_dir": f"{folder}/r"}
        os.environ[RAY] = folder
    else:
        _check_answers(address)
    # Import Ray after its environment is set.
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, include_dashboard=False, logging_level="warning", **options)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(
            f"Cannot connect to a Ray cluster at {address}: {error}",
            "Check cluster.address. For a cluster with a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH.",
        ) from None
    finally:
        os.environ.pop(RAY, None)  # a process that Semtag starts later is not Ray's
    # By default Ray starts 32 processes for each Parquet folder to read its footers, more than a few CPUs can carry.
    readers = int(ray.cluster_resources().get("CPU", 0)) // CPUS_A_FOOTER_READER
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", str(min(32, max(1, readers))))


def _check_answers(address: str) -> None:
    """Check that a server answers at the address, because Ray would hang. Raises UserError if none does."""
    if "://" in address:
        raise UserError(
            f"cluster.address={address} is not the address of a cluster's head node.",
            "Write HOST:PORT (the port is 6379) or auto, on a node of the cluster. Elsewhere use `semtag submit`.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(f"No Ray cluster answers at {address}: {error}", "Check cluster.address.") from None


def _local_cpus(config: Config) -> int:
    """Return the logical CPUs of a private Ray: cluster.cpus, or enough for all actors and 4 tasks.

    The number may exceed the machine's CPUs, because actors wait for each other more than they compute.
    """
    return config.cluster.cpus or max(os.cpu_count() or 1, sum(need.most for need in needs_of(config)) + 4)


def _own_gpus() -> tuple[int, str | None]:
    """Return the number and the type of this machine's visible GPUs, as Ray finds both when it starts."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    gpus = get_accelerator_manager_for_resource("GPU")
    visible, found = gpus.get_current_process_visible_accelerator_ids(), gpus.get_current_node_num_accelerators()
    return found if visible is None else min(found, len(visible)), gpus.get_current_node_accelerator_type()


def live_nodes() -> list[Node]:
    """Return the live nodes of the connected cluster, and the nodes that its autoscaler may still add."""
    import ray
    from ray._private.state import state

    nodes = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    growth = state.get_cluster_config()
    for group in growth.node_group_configs if growth else ():
        # A negative count means no limit. Live nodes of a group count twice, because the opposite error would refuse a
        # run that has room.
        count = group.max_count if group.max_count >= 0 else GROWN_NODES
        nodes += [node_of(dict(group.resources))] * count
    return nodes


class Tally:
    """The sum of the workers' counts, held by a Ray actor and shown by the driver as progress."""

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
        """Add counts from a worker, without waiting. Counts of one second are sent together, unless `at_once`."""
        self._kept += by
        if at_once or time.monotonic() - self._sent > 1.0:
            self.actor.add.remote(self._kept)
            self._kept, self._sent = Counts(), time.monotonic()

    def total(self) -> Counts:
        """Return the current sum. Raises ray.exceptions.GetTimeoutError after SILENCE seconds without an answer."""
        import ray

        return ray.get(self.actor.total.remote(), timeout=SILENCE)

    @contextlib.contextmanager
    def shown(self, progress: Progress) -> Iterator[None]:
        """Show the sum each second of the block, and at the block's end. A silent cluster does not end the block."""
        import ray

        def show() -> None:
            progress.show(self.total(), sum(node["Alive"] for node in ray.nodes()))

        with repeating(show, every=1.0, at_end=True):
            yield
