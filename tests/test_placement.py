"""Can these nodes hold these actors? Cases worked out by hand."""

from itertools import product

import pytest

from semtag.cluster.placement import Need, Node, check_fits, check_training_fits, needs_of, node_of, offer, table
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from tests.conftest import ROOT, TINY

H100 = frozenset({"H100"})
L4 = frozenset({"L4"})


def needs(
    samplers: int, gpus: float, scorers: int = 1, share: float = 0.0, kind: str | None = None
) -> tuple[Need, Need]:
    return Need("sampling", samplers, samplers, gpus, kind), Need("scoring", scorers, scorers, share)


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (needs(1, 0), [Node(3)]),
        (needs(2, 1), [Node(8, 2)]),
        (needs(1, 0.7, 1, 0.3), [Node(4, 1)]),  # both share the one GPU
        (needs(3, 0.3, 1, 0.1), [Node(8, 1)]),
        (needs(2, 0.6, 2, 0.4), [Node(8, 2)]),  # one of each on each GPU
        (needs(1, 4, 8, 0.5), [Node(8, 4), Node(8, 4)]),  # the scorers get the other node's four
        (needs(2, 4), [Node(2, 4), Node(2, 4)]),
        (needs(1, 1, 1, 1, "H100"), [Node(4, 1, L4), Node(4, 1, H100)]),
        (needs(4, 0.25, 4, 0.25), [Node(10, 2)]),
    ],
)
def test_what_fits(wanted: tuple[Need, Need], nodes: list[Node]) -> None:
    check_fits(wanted, nodes, "the cluster")


@pytest.mark.parametrize(
    ("wanted", "nodes", "message"),
    [
        (needs(1, 1), [Node(8)], "A sampling actor takes 1 GPU, and the cluster has none"),
        (needs(16, 1, 4, 0.5), [Node(64, 8), Node(64, 8)], "take 18 GPUs, and the cluster has 16"),
        (needs(2, 0), [Node(3)], "2 sampling and 1 scoring actors and a task that reads and writes take 4 CPUs"),
        (needs(1, 8), [Node(64, 4), Node(64, 4)], "8 GPUs of one node, and no node of the cluster has more than 4"),
        (needs(1, 1, kind="H200"), [Node(8, 8, H100), Node(8, 1, L4)], "of type H200. Types of its nodes: H100, L4"),
        # 1.8 GPUs of 2, but a GPU holds one share of 0.6
        (needs(3, 0.6), [Node(8, 2)], "have room for 2 of 3 sampling actors"),
        # Two of each take 2.2 GPUs of 3; one GPU holds one sampler of 0.7 or two scorers of 0.4, and 0.7 + 0.4 > 1
        (needs(2, 0.7, 3, 0.4), [Node(16, 3)], "have room for 2 of 2 sampling actors and 2 of 3 scoring"),
        # 8 of 9 GPUs, but three nodes of three hold one engine of two GPUs each
        (needs(4, 2), [Node(8, 3), Node(8, 3), Node(8, 3)], "have room for 3 of 4 sampling actors"),
        # The one H100 goes to the sampler; the others are L4s of another node without CPUs
        (needs(1, 1, 1, 1, "H100"), [Node(8, 1, H100), Node(0, 4, L4)], "room for 1 of 1 sampling actors and 0 of 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit(wanted: tuple[Need, Need], nodes: list[Node], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_fits(wanted, nodes, "the cluster")
    assert message in str(caught.value)


def fits_by_trying(samplers: int, each: int, scorers: int, other: int, gpus: int) -> bool:
    """All ways to put shares, in tenths, on the GPUs of one node."""
    return any(
        all(s * each + t * other <= 10 for s, t in zip(first, second, strict=True))
        for first in product(range(samplers + 1), repeat=gpus)
        if sum(first) == samplers
        for second in product(range(scorers + 1), repeat=gpus)
        if sum(second) == scorers
    )


@pytest.mark.parametrize(("each", "other"), [(3, 4), (7, 3), (5, 5), (2, 9), (10, 3), (6, 1)])
def test_shares_fit_as_trying_all_ways_says(each: int, other: int) -> None:
    for samplers, scorers, gpus in product((1, 2, 3), (1, 2, 4), (1, 2)):
        expected = fits_by_trying(samplers, each, scorers, other, gpus)
        try:
            check_fits(needs(samplers, each / 10, scorers, other / 10), [Node(99, gpus)], "the cluster")
            found = True
        except UserError:
            found = False
        assert found == expected, (samplers, scorers, gpus)


@pytest.mark.parametrize(
    ("workers", "gpus", "kind", "nodes", "room"),
    [
        (2, 0, None, [Node(2)], 2),
        (3, 0, None, [Node(2), Node(1, 8)], 3),
        (4, 0, None, [Node(2), Node(1)], 3),
        (9, 1, None, [Node(64, 8), Node(64)], 8),
        (3, 1, None, [Node(2, 8)], 2),
        (2, 1, "H100", [Node(8, 1, H100), Node(8, 8, L4)], 1),
    ],
)
def test_all_processes_of_a_training_must_fit(
    workers: int, gpus: int, kind: str | None, nodes: list[Node], room: int
) -> None:
    need = Need("training", workers, workers, gpus, kind)
    if workers <= room:
        check_training_fits(need, nodes, "the cluster")
    else:
        with pytest.raises(UserError, match=f"{workers} training processes .* has room for {room}"):
            check_training_fits(need, nodes, "the cluster")


def test_ray_s_words_for_a_node() -> None:
    assert node_of({"CPU": 8.0, "GPU": 4.0, "accelerator_type:H100": 1.0, "memory": 1e9}) == Node(8, 4, H100)
    assert node_of({"memory": 1e9}) == Node(0)
    assert offer([Node(8, 4, H100), Node(2)]) == "2 nodes, 10 CPUs, 4 GPUs (H100)"


def test_the_table_of_a_config() -> None:
    overrides = [
        "sampling.actors=2",
        "sampling.max_actors=4",
        "sampling.gpus_per_actor=1",
        "sampling.tensor_parallel=2",
    ]
    overrides += ["sampling.accelerator_type=H100", "scoring.gpus_per_actor=0.5"]
    assert table(needs_of(load_config(ROOT / "configs" / "demo.yaml", [*TINY, *overrides]))) == [
        "          actors  CPUs each  GPUs each  accelerator",
        "───────────────────────────────────────────────────",
        "sampling  2..4    1          2          H100",
        "scoring   1       1          0.5        any",
        "in all CPUs 3..5, GPUs 4.5..8.5",
    ]
