"""report.json -> report.html, one self-contained page, and its pictures. All model output is escaped."""

import base64
import json
import shutil
from pathlib import Path

from semtag.evaluation.page import Figures, for_script, render_page
from semtag.evaluation.terminal import read_report
from semtag.evaluation.topic_map import SHOWN
from semtag.evaluation.verdict import verdict
from semtag.store.locations import explain_store_errors, local_folder, uri
from semtag.store.run_dir import RunDir

PICTURES = ("similarity", "differences", "defects", "margins", "training")
DERIVED = ("report.html", *(f"{name}.png" for name in PICTURES))


def write_pages(report: Figures, folder: Path) -> None:
    """Write the pictures and report.html into `folder`."""
    from semtag.evaluation import plots

    plots.similarity_histogram(report["histogram"], folder / "similarity.png")
    mean = report["similarity"]["all_texts"]["difference"]
    plots.paired_differences(report["differences"], mean, folder / "differences.png")
    plots.defects({arm["name"]: arm["defects"] for arm in report["arms"]}, folder / "defects.png")
    plots.margins(report["margins"], folder / "margins.png")
    plots.training_curves(report["curve"], folder / "training.png")
    pictures = {
        name: "data:image/png;base64," + base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        for name in PICTURES
    }
    (folder / "report.html").write_text(render(report, pictures), encoding="utf-8")


def render(report: Figures, pictures: dict[str, str]) -> str:
    """The page."""
    topics = report["downstream"]["topics"]
    drawn = topics["map"] if topics else None
    return render_page(
        "report.html.j2",
        "report",
        report=report,
        pictures=pictures,
        verdict=verdict(report),
        examples=[_example(example) for example in report["examples"]],
        reading=_reading,
        map_data=for_script(_map_data(drawn)) if drawn else "",
        merges=_merges(drawn) if drawn else [],
        timeline=_timeline(drawn) if drawn and drawn["over_time"] else None,
        config=json.dumps(report["config"], indent=1, ensure_ascii=False),
    )


def _example(example: Figures) -> Figures:
    """An example with the tags of each side, and which of them the other side lacks."""
    base, tuned, gain = example["base"], example["tuned"], example["gain"]
    return {
        "text": example["text"],
        "gain": gain,
        "better": "tuned" if gain > 0 else "base" if gain < 0 else "same",
        "malformed": not base["format"] == tuned["format"] == "valid",
        "sides": [_side("base", base, tuned), _side("tuned", tuned, base)],
        "others": [_side(arm, answer, tuned) for arm, answer in example["arms"].items()],
    }


def _side(arm: str, answer: Figures, beside: Figures) -> Figures:
    """The answer of an arm; its tags are marked where the answer beside it has tags, and not these."""
    known = {tag.casefold() for tag in beside["tags"]}
    marked = [
        {"text": tag, "only": f"only {arm}" if known and tag.casefold() not in known else None}
        for tag in answer["tags"]
    ]
    return {"arm": arm, "answer": answer, "tags": marked}


def _reading(row: Figures) -> str:
    """What a row of a task read, in words."""
    arm = row["arm"].replace("_", " ")
    return {"text": "text alone", "tags": f"tags of {arm} alone", "both": f"text and tags of {arm}"}[row["on"]]


def _map_data(drawn: Figures) -> Figures:
    points = [
        point | {"text": point["text"] if len(point["text"]) < SHOWN else point["text"] + "…"}
        for point in drawn["points"]
    ]
    return {"points": points, "topics": drawn["topics"]}


def _merges(drawn: Figures) -> list[Figures]:
    """Merges of topics with names in place of numbers: T topics first, then the merges in their order."""
    names = [topic["name"] for topic in drawn["topics"]] + [merge["name"] for merge in drawn["hierarchy"]]
    return [merge | {side: names[merge[side]] for side in ("left", "right")} for merge in drawn["hierarchy"]]


def _timeline(drawn: Figures) -> Figures:
    """Counts of each topic in each period, and the largest of them."""
    counts = {(entry["topic"], entry["period"]): entry["count"] for entry in drawn["over_time"]}
    periods = sorted({period for _, period in counts})
    topics = [*((topic["id"], topic["name"]) for topic in drawn["topics"]), (-1, "no topic")]
    rows = [{"name": name, "counts": [counts.get((id_, period), 0) for period in periods]} for id_, name in topics]
    return {"periods": periods, "rows": [row for row in rows if any(row["counts"])], "most": max(counts.values())}


def rewrite(run: RunDir) -> str:
    """Write the page and its pictures anew, beside what else the evaluation left; returns where the page is."""
    with explain_store_errors(run.path):
        report, before = read_report(run), run.layout.evaluation
        with run.replace_folder(before) as folder:
            ignored = shutil.ignore_patterns(*DERIVED)
            shutil.copytree(local_folder(uri(before)), folder, ignore=ignored, dirs_exist_ok=True)
            write_pages(report, folder)
    return str(run.layout.page)
