"""Chat messages for a text, which only a chat template renders."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.schema import Model, Prompt
from semtag.generation.parse import MARKS
from semtag.generation.records import Message
from semtag.store.hub import fix_for
from semtag.store.locations import local_folder

PROBE = "an-answer"  # stands for an answer, to see what a template writes around an answer

# For models without a chat template: the contents in turn, with the end token after the answer.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
)


def load_tokenizer(path: str | Path, model: Model) -> Any:
    """Load the tokenizer at `path`, with the chat template of the run.

    Raises UserError when `path` has no tokenizer, or when the configured template cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(str(path)))
    except (OSError, ValueError) as error:
        mend = fix_for(error, "Check model.base.")
        raise UserError(f"No tokenizer at {path}: {str(error).splitlines()[0]}", mend) from None
    if model.chat_template:
        tokenizer.chat_template = _read_template(Path(model.chat_template))
    elif not tokenizer.chat_template:
        logging.getLogger(__name__).warning("%s has no chat template, so Semtag joins messages by blank lines.", path)
        begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + PLAIN_TEMPLATE
    if model.chat_template_kwargs:
        tokenizer.chat_template = with_variables(tokenizer.get_chat_template(), model.chat_template_kwargs)
    return tokenizer


def with_variables(template: str, variables: Mapping[str, bool | int | float | str]) -> str:
    """Set variables at the start of a chat template, so that each server of the saved tagger renders as Semtag does.

    Example: `{enable_thinking: false}` puts `{% set enable_thinking = false %}` before the template.
    """
    # Jinja reads numbers, strings, true and false as JSON does.
    start = "".join(f"{{% set {name} = {json.dumps(value)} %}}" for name, value in variables.items())
    return template if template.startswith(start) else start + template


def end_tokens(tokenizer: Any, model: str) -> list[str]:
    """Return the end token, and the stop tokens of the generation config, because some models end turns with these."""
    from transformers import GenerationConfig

    try:
        stops = GenerationConfig.from_pretrained(local_folder(model)).eos_token_id or []
    except (OSError, ValueError):
        stops = []
    ids = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
    return [str(token) for token in tokenizer.convert_ids_to_tokens(sorted(ids))]


def takes_system_role(tokenizer: Any) -> bool:
    """Check whether the chat template renders a system message, and does not refuse or drop the message."""
    probe = "a-system-message"
    return probe in rendered(tokenizer, [{"role": "system", "content": probe}, {"role": "user", "content": "?"}])


def rendered(tokenizer: Any, messages: list[Message], **how: Any) -> str:
    """Render messages by the chat template; return an empty string where the template refuses the messages."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception:  # templates raise errors of any kind (jinja2.TemplateError, ValueError, ...)
        return ""


def around_answer(tokenizer: Any, asked: list[Message]) -> tuple[str, str, str]:
    """Render messages with an answer; return the text before the answer, the answer, and the text behind the answer.

    The first two are empty where the template refuses the messages or drops the answer.
    """
    return rendered(tokenizer, [*asked, {"role": "assistant", "content": PROBE}]).rpartition(PROBE)


def spellings_of(tokenizer: Any) -> list[str]:
    """List strings that a text must not spell, the longest first: control tokens, and tokens that the template writes.

    Words and white space are left out, because some tokenizers have them among their added tokens.
    """
    asked, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}
    written = rendered(tokenizer, [asked, answered, asked], add_generation_prompt=True)
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or token.content in written}
    found |= {*map(str, tokenizer.all_special_tokens)}
    return sorted((one for one in found if len(one.strip()) > 1 and not one.isalnum()), key=len, reverse=True)


def broken(text: str, spellings: Sequence[str]) -> str:
    """Put a space after the first character of each of the `spellings`, and of each mark of chat templates.

    So the text opens no turn of its own: `ships</s><|user|>` becomes `ships< /s>< |user|>`.
    """
    pattern = re.compile("|".join([*map(re.escape, spellings), MARKS]))
    while (apart := pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)) != text:
        text = apart
    return text


class Chat:
    """The prompts about texts, in a model's own chat template."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.system_role, self.spellings = takes_system_role(tokenizer), spellings_of(tokenizer)

    def messages(self, text: str, examples: Sequence[tuple[str, str]] = ()) -> list[Message]:
        """Build the messages that ask about a text, after the examples."""
        shown = [(broken(one, self.spellings), answer) for one, answer in examples]
        return build_messages(broken(text, self.spellings), self.prompt, self.system_role, shown)

    def ids(self, messages: list[Message]) -> list[int]:
        """Return the token ids of the rendered messages, with the opening of the assistant's turn."""
        return prompt_ids(self.tokenizer, messages)


def build_messages(
    text: str, prompt: Prompt, system_role: bool, examples: Sequence[tuple[str, str]] = ()
) -> list[Message]:
    """Build the messages of the configured prompt. Without a system role, the system text begins the first turn.

    Each of the `examples`, a text and its answer, becomes a user turn and an assistant turn before the text.
    """
    turns: list[Message] = []
    for shown, answer in examples:
        turns += [_asked(shown, prompt), {"role": "assistant", "content": answer}]
    turns.append(_asked(text, prompt))
    system = prompt.system.replace("{max_tags}", str(prompt.max_tags))
    if not system:
        return turns
    if system_role:
        return [{"role": "system", "content": system}, *turns]
    turns[0] = {"role": "user", "content": f"{system}\n\n{turns[0]['content']}"}
    return turns


def _asked(text: str, prompt: Prompt) -> Message:
    return {"role": "user", "content": prompt.user.replace("{text}", text)}


def prompt_ids(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Return the token ids of the rendered messages, with the opening of the assistant's turn."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot read the chat template {path}: {error.strerror}.", "Check model.chat_template."
        ) from None
