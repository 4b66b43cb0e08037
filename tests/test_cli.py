"""What a person meets: help, mistakes, and where to go on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, semtag, tiny_demo

TEXTS = ROOT / "configs" / "demo" / "texts.jsonl"
LONG = "x" * 300


def fails(*arguments: str) -> str:
    """The message of a call that the user has to mend: exit status 2, no traceback."""
    done = semtag(*arguments)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert "error: " in said
    return said


def test_help_teaches_and_answers_in_under_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = semtag("--help")
        seconds.append(time.monotonic() - start)
    assert done.returncode == 0
    for word in ("run", "rank", "pairs", "train", "evaluate", "submit", "verify", "report", "examples:"):
        assert word in done.stdout
    assert min(seconds) < 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.betta=1", "Did you mean training.beta?"),
        ("sampling.top_p=2", "sampling.top_p: Input should be less than or equal to 1 (got 2)"),
        ("training.beta=0", "training.beta: Input should be greater than 0"),
        ("run.name=../other", "is not a run name"),
        ("model.base=./no/such/model", "The model path ./no/such/model does not exist"),
        ("model.base=/tmp", "The model path /tmp has no config.json"),
        ("data.path=missing.jsonl", "No such file: missing.jsonl"),
        ("data.column=body", "no column 'body'; it has:"),
        (f"run.name={LONG}", f"/{LONG}/manifest.json: File name too long"),
        (f"model.base=./{LONG}", f"{LONG}/config.json: File name too long"),
        (f"data.path={LONG}", f"{LONG}: File name too long"),
    ],
)
def test_mistakes(override: str, message: str, tmp_path: Path) -> None:
    assert message in fails("run", *tiny_demo(tmp_path, override))


def test_a_dry_run_shows_the_plan_and_makes_nothing(tmp_path: Path) -> None:
    done = semtag("run", *tiny_demo(tmp_path), "--dry-run")
    assert done.returncode == 0
    assert "60 distinct texts in 60 rows" in done.stdout
    assert "the first loss is" in done.stdout
    assert "  pairs-1    to do: ranked lists -> preference pairs and lists" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "No such file" in fails("run", *tiny_demo(tmp_path, "data.path=missing.jsonl"), "--dry-run")


def test_the_published_plan_needs_no_network(tmp_path: Path) -> None:
    done = semtag("run", "configs/zephyr_squad.yaml", f"run.root={tmp_path}", "--dry-run", timeout=30)
    assert done.returncode == 0
    assert "squad_v2, split train, from the Hugging Face hub" in done.stdout
    assert "the first loss is 25; LoRA rank 16, 4-bit NF4" in done.stdout
    assert "  sampling  1       1          0.7        any" in done.stdout
    assert "  in all CPUs 2, GPUs 1" in done.stdout


@pytest.mark.parametrize("name", ["gemma3_1b", "llama32_1b", "qwen3_4b", "qwen3_8b"])
def test_shipped_plans_need_no_network(name: str, tmp_path: Path) -> None:
    done = semtag("run", name, f"run.root={tmp_path}", "--dry-run", timeout=60)
    assert done.returncode == 0
    assert "the first loss is 25; LoRA rank 16" in done.stdout
    assert "  in all CPUs 2, GPUs 1" in done.stdout


def test_a_stage_asks_for_the_ones_before_it(tmp_path: Path) -> None:
    assert "Do `semtag rank` first" in fails("pairs", *tiny_demo(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_before_and_during_work(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(small)], check=True)
    try:
        (small / "ballast").write_bytes(bytes(20 * 2**20))
        assert "is full" in fails("run", *tiny_demo(small))
        (small / "ballast").unlink()
        rows = tmp_path / "many.jsonl"
        # Hashes do not compress: the texts alone are more than the disk holds.
        rows.write_text("".join(f'{{"text": "{os.urandom(30_000).hex()}"}}\n' for _ in range(3000)))
        assert "is full" in fails("run", *tiny_demo(small, f"data.path={rows}", "data.limit=null"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("more", [["--dry-run"], [], ["--verbose"]])
def test_a_message_about_odd_bytes_is_printed_on_any_terminal(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Gr\\udcf6": "x"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "semtag", "rank", *tiny_demo(tmp_path, f"data.path={tmp_path / 'a.jsonl'}")]
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, *more], cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no column 'text'; it has: Gr\\udcf6" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [["rank", LONG], ["verify", LONG], ["tag", "./model", "--data", str(TEXTS), "--out", f"{LONG}.jsonl"]],
)
def test_a_name_that_is_too_long_for_a_file_is_named(command: list[str]) -> None:
    said = fails(*command)
    assert LONG in said and "File name too long" in said


def test_no_run_to_verify_or_report(tmp_path: Path) -> None:
    assert "not a run directory" in fails("verify", str(tmp_path))
    assert "no evaluation/report.json" in fails("report", str(tmp_path))
