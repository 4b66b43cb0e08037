"""report.json -> report.html, one self-contained page, and its pictures. All model output is escaped."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.places import naming_store
from cluster.run_dir import RunDir
from configs.errors import UserError
from evaluation import plots

SCHEMA_VERSION = 4


def write_pages(report: dict[str, Any], folder: Path) -> None:
    """Write the pictures and report.html into `folder`."""
    headline = report["decodings"][report["headline"]]
    plots.similarity_histogram(headline, folder / "similarity.png")
    plots.training_curves(report["curve"], folder / "training.png")
    plots.defects(headline, folder / "defects.png")
    plots.margins(report["margins"], folder / "margins.png")
    pictures = {
        name: "data:image/png;base64," + base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        for name in ("similarity", "training", "defects", "margins")
    }
    (folder / "report.html").write_text(render(report, pictures), encoding="utf-8")


def render(report: dict[str, Any], pictures: dict[str, str]) -> str:
    """The page. Undefined names raise, and everything that comes from data is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "signed": _signed, "points": _points, "figure": _figure}
    return environment.get_template("report.html.j2").render(
        report=report, pictures=pictures, verdict=verdict(report), config=json.dumps(report["config"], indent=1)
    )


def verdict(report: dict[str, Any]) -> list[str]:
    """What was found, in sentences that claim no more than the intervals do."""
    rate, similarity = report["format_rate"], report["similarity"]
    base, tuned = rate["base"]["value"], rate["tuned"]["value"]
    sure = "a difference that chance hardly makes" if rate["mcnemar_p"] < 0.05 else "which chance may explain"
    points = [_points(rate["difference"][name]) for name in ("value", "low", "high")]
    sentences = [
        f"Of {report['held_out_texts']} held-out texts the base model answers {base:.1%} well formed, the tuned model "
        f"{tuned:.1%}: {points[0]} percentage points, 95 % interval {points[1]} to {points[2]}, {sure} "
        f"(exact McNemar p = {rate['mcnemar_p']:.2g})."
    ]
    for name, words in (("both_valid", "where both answers are well formed"), ("all_texts", "over all texts")):
        difference = similarity[name]["difference"]
        if difference["value"] is None:
            sentences.append(f"There is no text to compare similarity on {words}.")
            continue
        found = "rises" if difference["low"] > 0 else "falls" if difference["high"] < 0 else "may not have changed"
        sentences.append(
            f"Similarity of tags and text {words} {found}: {difference['value']:+.3f}, "
            f"95 % interval {difference['low']:+.3f} to {difference['high']:+.3f}."
        )
    failed = [gate["name"] for gate in report["gates"] if not gate["passed"]]
    gates = f"{len(report['gates'])} gates against gaming it"
    sentences.append(
        "Similarity is also what the model was trained for, and it rewards words copied from the text. "
        + (f"Of {gates}, {len(failed)} failed: {', '.join(failed)}. " if failed else f"All {gates} passed. ")
        + "Read the examples before you trust it."
    )
    return sentences


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> int:
    """`python -m evaluation.report RUN`: write the page anew from report.json."""
    run = RunDir(sys.argv[1])
    file = run.path / "evaluation" / "report.json"
    try:
        with naming_store(run.path):
            if not file.exists():
                raise UserError(f"{run.path} has no evaluation/report.json.", "Do `semtag evaluate` first.")
            text = file.read_text(encoding="utf-8")
            report = json.loads(text)
            if report["schema"] != SCHEMA_VERSION:
                raise UserError(f"{file} was written by another version of Semtag.", "Start the run anew.")
            with run.writing("evaluation") as folder:
                (folder / "report.json").write_text(text, encoding="utf-8")
                write_pages(report, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(file.with_name("report.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
