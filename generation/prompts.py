"""Text -> chat messages, always rendered by a chat template, never by string glue."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.schema import Model, Prompt
from semtag.generation.parse import MARKS
from semtag.store.hub import mend_of
from semtag.store.locations import local_folder

Message = dict[str, str]
PROBE = "an-answer"  # stands for any answer, where it is asked what a template writes around one

# For checkpoints that carry no chat template: contents in turn, the answer closed by the end token.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
)


def load_tokenizer(path: str | Path, model: Model) -> Any:
    """The tokenizer at `path`, with the chat template that the whole run uses.

    Raises UserError when there is no tokenizer there or the configured template cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(str(path)))
    except (OSError, ValueError) as error:
        mend = mend_of(error, "Check model.base.")
        raise UserError(f"No tokenizer at {path}: {str(error).splitlines()[0]}", mend) from None
    if model.chat_template:
        tokenizer.chat_template = _read_template(Path(model.chat_template))
    elif not tokenizer.chat_template:
        logging.getLogger(__name__).warning("%s has no chat template; messages are joined by blank lines.", path)
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def takes_system_role(tokenizer: Any) -> bool:
    """Whether the chat template renders a system message instead of refusing or dropping it."""
    probe = "a-system-message"
    return probe in rendered(tokenizer, [{"role": "system", "content": probe}, {"role": "user", "content": "?"}])


def rendered(tokenizer: Any, messages: list[Message], **how: Any) -> str:
    """What the chat template makes of the messages; nothing where it refuses them."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))
    except Exception:  # templates raise errors of their own choosing (jinja2.TemplateError, ValueError, ...)
        return ""


def spellings_of(tokenizer: Any) -> list[str]:
    """What a text must not spell, the longest first: the control tokens, and what the chat template writes as a token.

    Words and white space are left out, which some tokenizers have among their added tokens.
    """
    asked, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}
    written = rendered(tokenizer, [asked, answered, asked], add_generation_prompt=True)
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or token.content in written}
    found |= {*map(str, tokenizer.all_special_tokens)}
    return sorted((one for one in found if len(one.strip()) > 1 and not one.isalnum()), key=len, reverse=True)


def broken(text: str, spellings: Sequence[str]) -> str:
    """The text with a blank behind the first character of each of the `spellings` and of all marks of templates.

    So it opens no turn of its own: `ships</s><|user|>` -> `ships< /s>< |user|>`.
    """
    pattern = re.compile("|".join([*map(re.escape, spellings), MARKS]))
    while (apart := pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)) != text:
        text = apart
    return text


class Chat:
    """Asks about texts, by a model's own chat template."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.system_role, self.spellings = takes_system_role(tokenizer), spellings_of(tokenizer)

    def messages(self, text: str, examples: Sequence[tuple[str, str]] = ()) -> list[Message]:
        """The messages that ask about a text, after the examples."""
        shown = [(broken(one, self.spellings), answer) for one, answer in examples]
        return build_messages(broken(text, self.spellings), self.prompt, self.system_role, shown)

    def ids(self, messages: list[Message]) -> list[int]:
        """Token ids of the rendered messages, with the opening of the assistant's turn."""
        return prompt_ids(self.tokenizer, messages)


def build_messages(
    text: str, prompt: Prompt, system_role: bool, examples: Sequence[tuple[str, str]] = ()
) -> list[Message]:
    """Build the messages of the configured prompt; the system text is merged where the template has no such role.

    Each of the `examples`, a text and its answer, goes before the text as a turn of its own.
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
    """Token ids of the rendered messages, with the opening of the assistant's turn."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot read the chat template {path}: {error.strerror}", "Check model.chat_template."
        ) from None
