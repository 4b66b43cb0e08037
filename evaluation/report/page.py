"""What the pages share: one file each, nothing fetched, all that comes from data escaped, and a policy that says so."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report.records import Contrast, Estimate, GateResult, Outcome

FOLDER = Path(__file__).parent
# How the difference of two shares, ranks or counts is written.
CHANGES = {"percent": "points", "figure": "signed", "number": "more"}
FORMATS = {
    "percent": "{:.1%}", "points": "{:+.1f}", "signed": "{:+.3f}", "more": "{:+.2f}", "p": "{:.3f}",
    "number": "{:.2f}", "figure": "{:.3f}",
}  # fmt: skip


def render_page(template: str, kind: str, **values: Any) -> str:
    """Render a page; `kind` names its style and script, which alone may run. Undefined names raise."""
    files = ("page.css", f"{kind}.css", f"{kind}.js")
    shared, own, script = ((FOLDER / name).read_text(encoding="utf-8") for name in files)
    style = shared + own
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "words": words, "plain": plain, "change": change_of, "said": said}
    environment.globals |= {"axis": axis, "place": place, "measures": MEASURES}
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=Markup(policy(style, script)), **values
    )


def policy(style: str, script: str) -> str:
    """Return a content security policy under which nothing is loaded and nothing runs but these two."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def for_script(value: Any) -> Markup:
    """Return JSON to stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def shown(value: float | None, kind: str) -> str:
    """Write a number in the way of its kind; a dash where there is none."""
    if value is None:
        return "–"  # noqa: RUF001
    if kind == "p" and value < 0.001:
        return "< 0.001"
    return FORMATS[kind].format(100 * value if kind == "points" else value)


def between(interval: Estimate, kind: str = "figure") -> str:
    """Write a value and its interval. Example: `0.351 [0.318, 0.383]`, and `0.351` where there is no interval."""
    value, low, high = (shown(end, kind) for end in (interval.value, interval.low, interval.high))
    unit = " points" if kind == "points" else ""
    return f"{value}{unit}" if interval.low is None else f"{value} [{low}, {high}]{unit}"


def change_of(measure: str) -> str:
    """Return the kind of a difference of a measure's values."""
    return CHANGES[MEASURES[measure].kind]


def said(contrast: Contrast) -> str:
    """Return what may be said of a contrast's first arm: better, worse or not clear; fewer or more of words."""
    counted = {"better": "fewer", "worse": "more"} if contrast.measure == "words" else {}
    return {"unclear": "not clear", **counted}.get(contrast.finding, contrast.finding)


def counted(gates: Sequence[GateResult]) -> str:
    """Count gates by outcome and name those that did not pass, unless that is all of them.

    Example: `8 passed, 1 failed (form), 0 undecided`.
    """
    parts = []
    for outcome in get_args(Outcome):
        names = [gate.name for gate in gates if gate.outcome == outcome]
        named = f" ({', '.join(names)})" if 0 < len(names) < len(gates) and outcome != "passed" else ""
        parts.append(f"{len(names)} {outcome}{named}")
    return ", ".join(parts)


def plain(value: Any) -> str:
    """Write a setting's value as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def words(name: str) -> str:
    """Write a name of the code as words. Example: `present_f1_at_m` becomes `present F1@M`."""
    for part, written in (("_at_m", "@M"), ("_at_", "@"), ("_", " "), ("f1", "F1"), ("ndcg", "nDCG")):
        name = name.replace(part, written)
    return name


def axis(values: Iterable[float | None]) -> tuple[float, float]:
    """Return the ends of an axis on which all those values lie, and 0."""
    known = [0.0, *(value for value in values if value is not None)]
    low, high = min(known), max(known)
    return low, high if high > low else low + 1


def place(value: float, ends: tuple[float, float]) -> str:
    """Return where on that axis a value lies, from 2 to 98 for an SVG that is 100 wide."""
    low, high = ends
    return f"{2 + 96 * (value - low) / (high - low):.1f}"
