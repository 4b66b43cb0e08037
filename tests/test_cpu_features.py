"""Whether the CPU has bfloat16, and what is said where it has not."""

from pathlib import Path

import pytest

from semtag.cluster import cpu_features
from semtag.configs.load import load_config
from semtag.plan import slow_types
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("info", "has"),
    [
        ("processor : 0\nflags\t\t: fpu sse avx2\n", False),
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\nprocessor : 1\nflags : fpu\n", True),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor : 0\n", True),
    ],
)
def test_bfloat16_is_read_from_the_flags(info: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(info)
    assert cpu_features.has_bfloat16(tmp_path / "cpuinfo") == has
    assert cpu_features.has_bfloat16(tmp_path / "none")


def test_a_slow_type_is_told_with_the_keys_that_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(*overrides: str) -> list[str]:
        return slow_types(load_config(ROOT / "configs" / "demo.yaml", overrides))

    monkeypatch.setattr("semtag.plan.has_bfloat16", lambda: False)
    assert keys() == ["sampling.dtype=float32", "training.dtype=float32"]
    assert keys("sampling.dtype=float32") == ["training.dtype=float32"]
    assert keys("sampling.engine=replay") == ["training.dtype=float32"]
    assert keys("sampling.gpus_per_actor=1") == keys("cluster.address=auto") == []
    monkeypatch.setattr("semtag.plan.has_bfloat16", lambda: True)
    assert keys() == []
