"""The placement of a run's actors, and the check that the nodes have room for these actors. Does not call Ray."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.configs.schema import Config, Sampling
from semtag.configs.scoring import Scoring

MANY = 10**9  # actors; stands for no limit
SHARE = 10_000  # units of a GPU, because Ray counts GPUs to the fourth decimal


@dataclass(frozen=True)
class Need:
    """A pool of `least` to `most` actors of one kind.

    Each actor takes one CPU and `gpus` GPUs: a share of one GPU, or whole GPUs of one node.
    """

    kind: str
    least: int
    most: int
    gpus: float
    accelerator: str | None = None


@dataclass(frozen=True)
class Node:
    """The CPUs and GPUs of a node, and the types of its GPUs in Ray's words."""

    cpus: int
    gpus: int = 0
    accelerators: frozenset[str] = frozenset()


def needs_of(config: Config) -> tuple[Need, Need]:
    """Return the pools of ranking and evaluation: sampling, then scoring."""
    return _need("sampling", config.sampling), _need("scoring", config.scoring)


def _need(name: str, kind: Sampling | Scoring) -> Need:
    return Need(name, kind.actors, kind.max_actors or kind.actors, kind.gpus, kind.accelerator_type)


def training_need(config: Config) -> Need:
    """Return the pool of training processes, as training.launcher=ray starts them."""
    training = config.training
    return Need("training", training.workers, training.workers, training.gpus_per_worker, training.accelerator_type)


def node_of(resources: dict[str, float]) -> Node:
    """Make a node from Ray's resources.

    Example: `{"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0}` becomes `Node(8, 4, frozenset({"H100"}))`.
    """
    prefix = "accelerator_type:"
    kinds = frozenset(name.removeprefix(prefix) for name in resources if name.startswith(prefix))
    return Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), kinds)


def check_fits(needs: tuple[Need, Need], nodes: Sequence[Node], where: str) -> None:
    """Check that the nodes have room for the least number of actors. `where` names the nodes in messages.

    Raises UserError where the room is lacking, because Ray would hang.
    """
    # Check one actor of each kind, then the sums, then the packing of whole actors.
    for need in needs:
        _check_one_actor(need, nodes, where)
    for unit, wanted, found in (
        ("GPUs", sum(need.least * need.gpus for need in needs), sum(node.gpus for node in nodes)),
        # Reading and writing are Ray tasks, which never start without a CPU of their own.
        ("CPUs", sum(need.least for need in needs) + 1, sum(node.cpus for node in nodes)),
    ):
        if wanted > found + 1 / SHARE:
            kinds = " and ".join(f"{need.least} {need.kind}" for need in needs)
            work = " and a task that reads and writes" if unit == "CPUs" else ""
            raise UserError(
                f"{kinds} actors{work} take {wanted:g} {unit}, and {where} has {found}.",
                f"Lower sampling.actors or scoring.actors, or add {'nodes' if unit == 'GPUs' else 'CPUs'}.",
            )
    first, second = needs
    beside = _most_beside(first, second, nodes)
    if len(beside) <= first.least or beside[first.least] < second.least:
        held = f"{min(first.least, len(beside) - 1)} of {first.least} {first.kind} actors"
        rest = f" and {min(second.least, beside[min(first.least, len(beside) - 1)])} of {second.least} {second.kind}"
        raise UserError(
            f"The nodes of {where} have room for {held}{rest} actors. A share of a GPU must lie on one GPU, and all "
            "GPUs of an actor on one node.",
            "Lower the number of actors or their gpus_per_actor, or add nodes.",
        )


def check_training_fits(need: Need, nodes: Sequence[Node], where: str) -> None:
    """Check that the nodes have room for all processes of a training at once. `where` names the nodes in messages.

    Raises UserError where the room is lacking, because Ray would hang.
    """
    suited = [node for node in nodes if _suits(node, need)]
    held = sum(min(node.cpus, node.gpus // int(need.gpus) if need.gpus else node.cpus) for node in suited)
    if held < need.least:
        kind = f" of type {need.accelerator}" if need.accelerator else ""
        each = f"a CPU and a GPU{kind}" if need.gpus else "a CPU"
        raise UserError(
            f"{need.least} training processes take {each} each, and {where} has room for {held}.",
            "Lower training.workers, or add nodes.",
        )


def _check_one_actor(need: Need, nodes: Sequence[Node], where: str) -> None:
    if not need.gpus:
        return
    # There must be a GPU, then a GPU of the right type, then a node with enough of these GPUs.
    if not any(node.gpus for node in nodes):
        raise UserError(
            f"A {need.kind} actor takes {need.gpus:g} GPU{'s' * (need.gpus > 1)}, and {where} has none.",
            f"Set {need.kind}.gpus_per_actor=0 to work on CPUs, or join a cluster with GPUs (cluster.address).",
        )
    suited = [node for node in nodes if _suits(node, need)]
    if not suited:
        there = ", ".join(_accelerators(nodes)) or "none with a name"
        raise UserError(
            f"No node of {where} has an accelerator of type {need.accelerator}. Types of its nodes: {there}.",
            f"Set {need.kind}.accelerator_type to a type of these nodes, or to null for any type.",
        )
    widest = max(node.gpus for node in suited)
    if need.gpus > widest:
        raise UserError(
            f"A {need.kind} actor takes {need.gpus:g} GPUs of one node, and no node of {where} has more than {widest}.",
            f"Lower {need.kind}.tensor_parallel to {widest} or less.",
        )


def _suits(node: Node, need: Need) -> bool:
    return need.accelerator is None or need.accelerator in node.accelerators


def _accelerators(nodes: Sequence[Node]) -> list[str]:
    return sorted({kind for node in nodes for kind in node.accelerators})


def _most_beside(first: Need, second: Need, nodes: Sequence[Node]) -> list[int]:
    """Return result[s], the largest number of `second` actors that fit when s `first` actors are placed.

    The result ends where no more `first` actors fit, and may end at `first.least`. An actor of `second` takes one GPU
    at most. The result is exact, because the lists of all nodes are merged over every split of s.
    """
    return reduce(lambda left, right: _merge(left, right, first.least), (_on_node(first, second, n) for n in nodes))


def _on_node(first: Need, second: Need, node: Node) -> list[int]:
    """Return the list of `_most_beside` for one node."""
    each, other = round(first.gpus * SHARE), round(second.gpus * SHARE)
    beside: list[int]
    if each == 0:
        beside = [_fit(SHARE, other) * node.gpus if other else MANY] * (node.cpus + 1)
    elif each >= SHARE:
        width = math.ceil(first.gpus)
        beside = [_fit(SHARE, other) * (node.gpus - s * width) for s in range(node.gpus // width + 1)]
    else:
        one_gpu = [_fit(SHARE - s * each, other) for s in range(_fit(SHARE, each) + 1)]
        beside = reduce(lambda left, right: _merge(left, right, node.cpus), [one_gpu] * node.gpus, [0])
    if not other:
        beside = [MANY] * len(beside)
    if not _suits(node, first):
        beside = beside[:1]
    room = [min(most, node.cpus - s) for s, most in enumerate(beside) if s <= node.cpus]
    return room if _suits(node, second) else [0] * len(room)


def _fit(room: int, each: int) -> int:
    return room // each if each else MANY


def _merge(left: list[int], right: list[int], most: int) -> list[int]:
    """Merge the lists of two groups of nodes, up to s = `most`. Example: `[1, 0]` and `[2, 1]` become `[3, 2, 1]`."""
    merged = [0] * min(len(left) + len(right) - 1, most + 1)
    for s, here in enumerate(left):
        for t, there in enumerate(right[: max(0, len(merged) - s)]):
            merged[s + t] = max(merged[s + t], here + there)
    return merged


def table(needs: Sequence[Need]) -> list[str]:
    """Format the placement as lines: a header, a rule, a line for each pool, and the sums."""
    rows = [("", "actors", "CPUs each", "GPUs each", "accelerator")]
    for need in needs:
        accelerator = need.accelerator or ("any" if need.gpus else "-")
        rows.append((need.kind, span(need.least, need.most), "1", f"{need.gpus:g}", accelerator))
    cpus = span(sum(need.least for need in needs), sum(need.most for need in needs))
    gpus = span(sum(need.least * need.gpus for need in needs), sum(need.most * need.gpus for need in needs))
    return [*text_table(rows), f"in all CPUs {cpus}, GPUs {gpus}"]


def span(least: float, most: float) -> str:
    """Format a range: `3` if both ends are equal, `3..5` if not."""
    return f"{least:g}" if least == most else f"{least:g}..{most:g}"


def offer(nodes: Sequence[Node]) -> str:
    """Describe the nodes in words. Example: `2 nodes, 10 CPUs, 4 GPUs (H100)`."""
    kinds = ", ".join(_accelerators(nodes))
    named = f" ({kinds})" if kinds else ""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus} CPUs, {gpus} GPUs{named}"
