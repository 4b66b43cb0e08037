"""An engine by HTTP: a server with OpenAI's API draws the candidates, at the pace that it keeps up with."""

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, Field

from semtag.cluster.progress import Adds, Counts
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.budget import Purse
from semtag.generation.decoding import Decoding
from semtag.generation.pace import Pace
from semtag.generation.prompts import Chat, build_messages, load_tokenizer
from semtag.generation.reasons import RejectReason
from semtag.generation.records import Candidate, SampledText, from_table, read_candidate, sampled_counts, to_table
from semtag.generation.sampler import seed_of, with_prompt
from semtag.generation.vote import majority_vote

KEY = "OPENAI_API_KEY"  # the environment variable with the server's key, as OpenAI's own clients read it
DOUBTED = 3  # failures of a request after which Semtag asks each time whether the server answers another one
TRIES = 8  # failures with another request answered each time, which chance would hardly give
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a failed request is sent again
OF_THE_TEXT = (400, 413, 422)  # HTTP statuses that refuse what a request says
BUSY = (429, 503)
LETTERS_A_TOKEN = 3  # at least, in most languages; for a budget where no tokenizer is at hand
LATER = (408, 409, 425, 429)  # statuses of a refusal that may not last


class Asked(NamedTuple):
    """The messages of a request, the number of their tokens, and how the model is asked."""

    messages: list[dict[str, str]]
    tokens: int
    decoding: Decoding


PROBE = Asked([{"role": "user", "content": "?"}], 1, Decoding("probe", max_tokens=1))


class _Message(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    """A completion in a server's answer."""

    message: _Message
    finish_reason: str | None = None


class _Answer(BaseModel):
    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Any = None

    def tokens(self, name: str, otherwise: int) -> int:
        """Return the tokens of prompts or completions by the server's own count, where it gives one."""
        count = self.usage.get(f"{name}_tokens") if isinstance(self.usage, dict) else None
        return count if isinstance(count, int) else otherwise


class Endpoint:
    """Ray Data actor class with the inputs and outputs of `Sampler`, around a server with OpenAI's API.

    A request that fails is sent again, after a wait that doubles. A text that the server refuses, or fails at while it
    answers others, comes back with its `reason`. A text for which sampling.budget has no room does not come back.
    Raises UserError where the user must act: for a wrong key or model, for an account without money, and where the
    server answers nothing for sampling.hang_minutes. Candidates have neither tokens nor log-probabilities, because
    those of another model are no reference. Training computes the reference itself. Without a `model` no tokenizer is
    loaded, and texts are sent as they are.
    """

    def __init__(self, config: Config, model: str, decodings: Sequence[Decoding], tally: Adds) -> None:
        import openai

        sampling = config.sampling
        self.config, self.decodings = config, {decoding.name: decoding for decoding in decodings}
        self.chat = Chat(load_tokenizer(model, config.model), config.prompt) if model else None
        self.tally = tally
        self._key, self._patience = os.environ.get(KEY, ""), sampling.hang_minutes * 60
        # Semtag itself sends requests again, because the client does not know of the other requests in flight.
        self._client = openai.AsyncOpenAI(
            base_url=sampling.endpoint, api_key=self._key or "none", max_retries=0, timeout=self._patience
        )
        self._pace = Pace(sampling.requests)
        self._purse = Purse(sampling.budget, sampling.max_actors or sampling.actors)
        self._last_answer = time.monotonic()
        self._one_by_one = False  # whether the server draws one candidate a request, whatever it is asked for

    async def __call__(self, batch: pa.Table) -> pa.Table:
        return to_table(await self.sample(from_table(batch)))

    async def sample(self, texts: list[SampledText]) -> list[SampledText]:
        """Return the texts with their candidates, in the same order, without those that the budget has no room for."""
        # A server is not to blame for the time between two batches.
        self._last_answer = time.monotonic()
        done = await asyncio.gather(*(self._counted(text) for text in texts))
        self.tally.add(Counts(), at_once=True)
        return [text for text in done if text]

    async def _counted(self, text: SampledText) -> SampledText | None:
        try:
            done = await self._sample(text)
        except OverBudgetError:
            return None
        self.tally.add(sampled_counts([done]))
        return done

    async def _sample(self, text: SampledText) -> SampledText:
        decoding = self.decodings[text.decoding]
        try:
            text, asked = self._prompted(text, decoding)
        except Exception as error:  # templates and tokenizers raise errors of any kind
            return text.rejected(RejectReason.REFUSED_BY_TEMPLATE, f"{type(error).__name__}: {error}")
        try:
            choices = await self._choices(asked, seed_of(self.config.run.seed, text.text_id))
        except RefusedError as error:
            return text.rejected(RejectReason.REFUSED_BY_ENGINE, str(error))
        candidates = [self._candidate(*numbered) for numbered in enumerate(choices)]
        return replace(text, candidates=[majority_vote(candidates)] if decoding.vote else candidates)

    def _prompted(self, text: SampledText, decoding: Decoding) -> tuple[SampledText, Asked]:
        """Return the text with its plain prompt, and the request about it."""
        if self.chat is None:
            messages = build_messages(text.text, self.config.prompt, True, decoding.examples)
            return replace(text, prompt=messages), Asked(messages, len(text.text) // LETTERS_A_TOKEN, decoding)
        text, ids = with_prompt(self.chat, text, decoding)
        return text, Asked(self.chat.messages(text.text, decoding.examples), len(ids), decoding)

    def _candidate(self, number: int, choice: Choice) -> Candidate:
        return read_candidate(self.config.prompt, number, choice.message.content or "", choice.finish_reason)

    async def _choices(self, asked: Asked, seed: int) -> list[Choice]:
        """Return `decoding.samples` choices: of one request, and of a request each where the server gives fewer.

        vLLM gives sample i of a request the seed + i, so both ways draw the same candidates there.
        """
        found, many = list[Choice](), asked.decoding.samples
        if not self._one_by_one:
            with contextlib.suppress(RefusedError):  # perhaps of `n` alone, as the single requests will show
                found = (await self._ask(asked, seed, many))[:many]
        rest = range(len(found), many)
        single = await asyncio.gather(*(self._ask(asked, seed + place, 1) for place in rest))
        self._one_by_one |= len(found) <= 1
        return [*found, *(choices[0] for choices in single)]

    async def _ask(self, asked: Asked, seed: int, many: int) -> list[Choice]:
        """Send a request until the server answers it, and return the choices.

        Raises RefusedError, OverBudgetError and UserError.
        """
        import openai

        failures = own = 0
        while True:
            async with self._pace.slot() as began:
                try:
                    found = await self._send(asked, seed, many)
                except (openai.APIError, ValueError) as error:
                    problem: Exception = error
                else:
                    self._pace.answered(began)
                    return found
            status = getattr(problem, "status_code", 0)
            if status in OF_THE_TEXT:
                raise RefusedError(self._said(problem))
            self._stop_if_hopeless(problem, status)
            wait = _wait(problem, failures)
            if status in BUSY:
                self._pace.refused(began, wait)
            await asyncio.sleep(wait)
            failures += 1
            own += status not in BUSY and failures > DOUBTED and await self._answers_another()
            if own == TRIES:
                raise RefusedError(f"{failures} requests failed. The last failure: {self._said(problem)}")

    async def _answers_another(self) -> bool:
        """Check whether the server answers a harmless request, so that failures are a text's own."""
        import openai

        try:
            return bool(await self._send(PROBE, seed=0, many=1))
        except (openai.APIError, ValueError):
            return False

    async def _send(self, asked: Asked, seed: int, many: int) -> list[Choice]:
        """Send one request, if the budget has room for it.

        Raises OverBudgetError, openai.APIError, and ValueError for an answer that cannot be read.
        """
        import openai

        decoding, read, written = asked.decoding, asked.tokens, many * asked.decoding.max_tokens
        if not self._purse.take(read, written):
            raise OverBudgetError
        more: dict[str, Any] = {"top_k": decoding.top_k} if decoding.top_k else {}
        if decoding.pattern:
            # vLLM's name for the grammar, and SGLang's.
            more |= {"structured_outputs": {"regex": decoding.pattern}, "regex": decoding.pattern}
        try:
            raw = await self._client.chat.completions.with_raw_response.create(
                model=self.config.sampling.served_model or "",
                messages=asked.messages,  # type: ignore[arg-type]
                n=many,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=seed,
                max_tokens=decoding.max_tokens,
                extra_body=more,
            )
        except openai.APIError:
            self._purse.correct(-read, -written)  # a server takes no money for an error
            raise
        answer = _Answer.model_validate_json(raw.content)
        self._last_answer = time.monotonic()
        used_read, used_written = answer.tokens("prompt", read), answer.tokens("completion", written)
        self._purse.correct(used_read - read, used_written - written)
        self.tally.add(Counts(read=used_read, written=used_written))
        return answer.choices

    def _stop_if_hopeless(self, problem: Exception, status: int) -> None:
        """Raise UserError for a failure that the user must mend, or that has lasted for sampling.hang_minutes."""
        endpoint = self.config.sampling.endpoint
        if status in (401, 403):
            raise UserError(
                f"The server at {endpoint} refused the key (HTTP {status}).",
                f"Set {KEY} in the environment of every node that samples. The same command resumes the run.",
            )
        if (400 <= status < 500 and status not in LATER) or "insufficient_quota" in self._said(problem):
            raise UserError(
                f"The server at {endpoint} refused the work (HTTP {status}): {self._said(problem)}",
                "Check sampling.endpoint and sampling.served_model, or the account. The same command resumes the run.",
            )
        if time.monotonic() - self._last_answer > self._patience:
            raise UserError(
                f"The server at {endpoint} has answered nothing for {self._patience / 60:g} minutes "
                f"(sampling.hang_minutes). Last it said: {self._said(problem)}",
                "Look at the server. The same command resumes the run.",
            )

    def _said(self, problem: Exception) -> str:
        """Return the beginning of an error's message on one line, without the key."""
        body = getattr(problem, "body", None)
        said = body if isinstance(body, str) else json.dumps(body) if body else str(problem)
        return " ".join((said.replace(self._key, "***") if self._key else said).split())[:300]


class OverBudgetError(Exception):
    """The budget has no room for a request."""


class RefusedError(Exception):
    """The server refuses a request, or fails at it alone."""


def _wait(problem: Exception, failures: int) -> float:
    """Return the seconds to wait: what the server asks for, or a random half to whole of a wait that doubles."""
    response = getattr(problem, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    with contextlib.suppress(ValueError):  # a date, which servers of models do not send
        return min(LONGEST_WAIT, max(0.0, float(asked)))
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
