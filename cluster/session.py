"""Starting and ending Ray, on loopback unless a cluster is named."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from cluster.progress import Progress
from configs.errors import UserError
from configs.schema import Config

# Ray replaces a node address of 127.0.0.1 by the machine's own and then listens on every interface, unless it is told
# (by a switch named for other systems, read when Ray is imported) that it will never be part of a cluster.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "VLLM_HOST_IP": "127.0.0.1"}


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Ray for the length of the block: a private one on 127.0.0.1, or the cluster at `cluster.address`.

    A private Ray gets more logical CPUs than the machine has: its actors wait for each other more than they compute.
    """
    local = config.cluster.address == "local"
    if local:
        os.environ |= LOOPBACK
    import ray
    import ray.data

    if local:
        cpus = config.cluster.cpus or max(os.cpu_count() or 1, config.sampling.actors + config.scoring.actors + 4)
        options: dict[str, Any] = {
            "num_cpus": cpus,
            "object_store_memory": int(config.cluster.object_store_gb * 2**30),
        }
    else:
        options = {}
    try:
        ray.init(address=config.cluster.address, include_dashboard=False, **options)
    except ConnectionError as error:
        raise UserError(f"No Ray cluster at {config.cluster.address}: {error}", "Check cluster.address.") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()


class Tally:
    """A sum kept in an actor, to which workers add and which the driver shows as progress."""

    def __init__(self, start: int = 0) -> None:
        import ray

        class _Sum:
            def __init__(self) -> None:
                self.value = start

            def add(self, by: int) -> int:
                self.value += by
                return self.value

        self.actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Sum).remote()

    def add(self, by: int) -> None:
        """Add without waiting; called in workers."""
        self.actor.add.remote(by)

    @contextlib.contextmanager
    def shown(self, progress: Progress, every: float = 1.0) -> Iterator[None]:
        """Show the sum on `progress` while the block runs."""
        import ray

        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(every):
                progress.set(ray.get(self.actor.add.remote(0)))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress.set(ray.get(self.actor.add.remote(0)))
