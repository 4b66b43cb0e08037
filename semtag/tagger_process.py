"""The process of a `semtag.Tagger`: `python -m semtag.tagger_process`.

The process reads lines of JSON: first the settings, then lists of texts. For each line read, the process writes a line
with the answers. Process and engine end with standard input: when the Tagger is closed, or its process is gone.

Example: `{"texts": ["Bees make honey."]}` becomes `{"answers": [[["bees", "honey"], "valid", null]]}`.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
from typing import Any, TextIO

from semtag.cluster.progress import NoTally
from semtag.cluster.stage_process import set_environment
from semtag.configs.errors import UserError
from semtag.configs.load import validate
from semtag.generation.decoding import tagging
from semtag.generation.documents import split_document
from semtag.generation.endpoint import Endpoint
from semtag.generation.preflight import check_model
from semtag.generation.reasons import RejectReason
from semtag.generation.records import SampledText
from semtag.generation.sampler import Sampler
from semtag.generation.texts import normalise, problem_of, text_id
from semtag.generation.vote import answer_of_parts
from semtag.store.rounds import base_of

Found = tuple[list[str], str, str | None]  # tags, format and reason


async def serve(out: TextIO) -> None:
    """Answer the requests on standard input until the input ends."""
    requests, task = asyncio.Queue[str](), asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    threading.Thread(target=_read_requests, args=(loop, requests, task), daemon=True).start()
    sampler, decoding = _start(json.loads(await requests.get()))
    try:
        _write(out, {"answers": []})
        while True:
            texts = json.loads(await requests.get())["texts"]
            _write(out, {"answers": await _answer(sampler, decoding, texts)})
    finally:
        if isinstance(sampler, Sampler):
            sampler.engine.shutdown()


def _read_requests(loop: asyncio.AbstractEventLoop, requests: asyncio.Queue[str], task: asyncio.Task[Any]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(requests.put_nowait, line)
    loop.call_soon_threadsafe(task.cancel)


def _start(asked: dict[str, Any]) -> tuple[Sampler | Endpoint, str]:
    """Start the engine, or reach for the server; return the sampler and the name of its decoding."""
    config = validate(asked["config"])
    model, decoding = base_of(config), tagging(config, asked["votes"], asked["constrained"])
    check_model(model, config, trained=False)
    kind = Endpoint if decoding.engine == "openai" else Sampler
    return kind(config, model, [decoding], NoTally()), decoding.name


async def _answer(sampler: Sampler | Endpoint, decoding: str, texts: list[object]) -> list[Found]:
    """Tag the texts, long ones in parts; return the answers in the order of the texts.

    Texts and parts that look the same are tagged once.
    """
    asked, sources, most = dict[int, SampledText](), list[list[int] | RejectReason](), sampler.config.data.max_words
    for text in texts:
        if problem := problem_of(text):
            sources.append(problem[0])
            continue
        shown = [normalise(part) for part in (split_document(str(text), most) if most else [str(text)])]
        usable = [SampledText(text_id(part), part, None, "{}", decoding) for part in shown if not problem_of(part)]
        sources.append([part.text_id for part in usable])
        asked |= {part.text_id: part for part in usable}
    found = {text.text_id: text for text in await sampler.sample([*asked.values()])}
    if len(found) < len(asked):
        raise UserError("sampling.budget is used up.", "Raise sampling.budget, or open another Tagger.")
    return [_found(source, found) for source in sources]


def _found(source: list[int] | RejectReason, texts: dict[int, SampledText]) -> Found:
    """Return the answer to a text: by the ids of its parts, or the reason why it was not asked about."""
    if isinstance(source, RejectReason):
        return [], "invalid", source
    parts = [texts[id_] for id_ in source]
    answered = [part.candidates[0] for part in parts if not part.reason]
    if not answered:
        return [], "invalid", parts[0].reason
    elected = answer_of_parts(answered, len(parts))
    return [*elected.tags], elected.format, elected.reason


def _write(out: TextIO, message: dict[str, Any]) -> None:
    out.write(f"{json.dumps(message)}\n")
    out.flush()


def main() -> None:
    """Serve the requests. A UserError is written as a line of JSON."""
    set_environment()
    # The output of libraries goes to standard error, because answers alone may go to standard output.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(serve(out))
    except UserError as error:
        _write(out, {"problem": error.what, "mend": error.mend})


if __name__ == "__main__":
    main()
