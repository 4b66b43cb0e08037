"""The check that all nodes of a cluster see the run's folder.

Without the check, a folder on one machine's disk would lead to a later error that hides the cause.
"""

import uuid
from pathlib import Path

from semtag.configs.errors import UserError

PATIENCE = 120.0  # seconds for all nodes to answer; the check ignores a node that is slower


def check_shared(folder: Path) -> None:
    """Check that each node of the Ray cluster with CPUs sees a new file in the folder. Raises UserError if not."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")
    }
    if len(nodes) < 2:
        return
    sign, look = folder.resolve() / f".seen-{uuid.uuid4().hex}", ray.remote(num_cpus=0)(sees)
    sign.touch()
    # Ask each node for the file, by a task that is bound to the node.
    try:
        asked = {}
        for node, address in nodes.items():
            there = look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            asked[there.remote(str(sign))] = address
        answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=PATIENCE)
        check_seen({asked[answer]: ray.get(answer) for answer in answered}, folder)
    finally:
        sign.unlink()


def sees(file: str) -> bool:
    """Return whether this node sees the file."""
    return Path(file).exists()


def check_seen(seen: dict[str, bool], folder: Path) -> None:
    """Check that all nodes see the folder: address -> seen. Raises UserError with the addresses that do not."""
    if blind := sorted(address for address, there in seen.items() if not there):
        raise UserError(
            f"The nodes {', '.join(blind)} do not see {folder}, which lies on a disk of this machine.",
            "Set run.root to a folder that all nodes share, or to a place in an object store (s3://, gs://).",
        )
