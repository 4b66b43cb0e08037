"""What the pages share: one file each, nothing fetched, all that comes from data escaped, and a policy that says so."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
SURE = 0.05  # a corrected p below this is called a difference

Figures = dict[str, Any]


def render_page(template: str, kind: str, **values: Any) -> str:
    """The page; `kind` names its style and script. Undefined names raise; only these two, known by hash, may run."""
    own = (f"{kind}.css", f"{kind}.js")
    shared, style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", *own))
    style = shared + style
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "words": words, "effect": effect, "plain": plain}
    environment.globals |= {"axis": axis, "place": place}
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=Markup(policy(style, script)), **values
    )


def policy(style: str, script: str) -> str:
    """A content security policy under which nothing is loaded and nothing runs but these two."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def for_script(value: Any) -> Markup:
    """JSON to stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def shown(value: float | None, kind: str) -> str:
    """A number in the way that its kind is written; a dash where there is none."""
    if value is None:
        return "–"  # noqa: RUF001
    match kind:
        case "percent":
            return f"{value:.1%}"
        case "points":
            return f"{100 * value:+.1f}"
        case "signed":
            return f"{value:+.3f}"
        case "p":
            return "< 0.001" if value < 0.001 else f"{value:.3f}"
        case "number":
            return f"{value:.2f}"
        case "count":
            return f"{value:,.0f}"
        case _:
            return f"{value:.3f}"


def between(interval: Figures, kind: str = "figure") -> str:
    """`0.351 [0.318, 0.383]`."""
    value, low, high = (shown(interval[name], kind) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def plain(value: Any) -> str:
    """A setting's value as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def words(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def effect(change: Figures) -> str:
    """`higher`, `lower` or `unclear`: what both the interval and the p corrected for many arms allow to say."""
    low, high = change["difference"]["low"], change["difference"]["high"]
    if change["p_holm"] >= SURE or low is None or high is None:
        return "unclear"
    return "higher" if low > 0 else "lower" if high < 0 else "unclear"


def axis(intervals: Iterable[Figures | None]) -> tuple[float, float]:
    """The ends of an axis on which all those intervals lie, and 0."""
    ends = [end for one in intervals if one for end in (one["low"], one["high"], one["value"]) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return low, high if high > low else low + 1


def place(value: float, ends: tuple[float, float]) -> str:
    """Where on that axis a value lies, from 2 to 98 for an SVG that is 100 wide."""
    low, high = ends
    return f"{2 + 96 * (value - low) / (high - low):.1f}"
