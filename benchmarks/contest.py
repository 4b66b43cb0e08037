"""What the benchmarks share: contenders in alternating rounds, medians, and the table."""

import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semtag.configs.data import Data
from semtag.generation.readers import read_rows

TEXTS = "configs/demo/texts.jsonl"


def order(contenders: Sequence[str], round_: int) -> list[str]:
    """The contenders, each round with another one first, so that none always runs on the warmer machine."""
    start = round_ % len(contenders)
    return [*contenders[start:], *contenders[:start]]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of each round; a machine that slows down from round to round leaves them alone."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers get thousands separators and three significant digits at least."""
    lines = [columns, ["---"] * len(columns), *([_shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 100 else f"{cell:.3g}"


def demo_texts(count: int) -> list[str]:
    """The first `count` texts of the demo, gone through again with a number behind where they do not suffice."""
    texts = [row.values["text"] for row in read_rows(Data(path=TEXTS))]
    return [
        text if turn == 0 else f"{text} {turn}"
        for turn, text in ((place // len(texts), texts[place % len(texts)]) for place in range(count))
    ]


def machine() -> str:
    """The CPU's model, the cores and the GPUs, as far as the system names them."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    parts = [model, f"{os.cpu_count()} cores"]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        parts += subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return ", ".join(parts)


def publish(result: dict[str, Any], table: str, out: Path | None) -> None:
    """Print the table below the machine's name, and write the figures to `out`."""
    print(f"\n{result['machine']}\n\n{table}\n", flush=True)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
