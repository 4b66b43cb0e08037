"""Do all nodes of a cluster see the run's folder? A disk of one machine alone would fail far from the cause."""

import uuid
from pathlib import Path

from semtag.configs.errors import UserError

PATIENCE = 120.0  # seconds for all nodes to answer; one that is slow is not called blind


def check_shared(folder: Path) -> None:
    """Raises UserError when a node of the Ray cluster that runs work does not see what is written into the folder."""
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
    """Whether this node has the file."""
    return Path(file).exists()


def check_seen(seen: dict[str, bool], folder: Path) -> None:
    """Raises UserError naming the nodes, by address, that do not see the folder."""
    if blind := sorted(address for address, there in seen.items() if not there):
        raise UserError(
            f"The nodes {', '.join(blind)} do not see {folder}, which lies on a disk of this machine.",
            "Set run.root to a folder that all nodes share, or to a place in an object store (s3://, gs://).",
        )
