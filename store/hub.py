"""A hub's models and data: a certain revision of a model, and what to do where a hub gives something to nobody here."""

import re

from semtag.configs.errors import UserError

# Weights as they are loaded, and what tells how to load them; a hub keeps others beside them.
MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_CLOSED = re.compile(r"gated|restricted|\b40[13]\b")


def snapshot(repository: str, revision: str) -> str:
    """The folder of this machine with that revision of a model. Raises UserError where the hub does not give it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(snapshot_download(repository, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"The hub gives no revision {revision} of {repository}: {str(error).strip().splitlines()[0]}",
            mend_of(error, "Check model.base, model.revision and the network."),
        ) from None


def mend_of(error: Exception, otherwise: str) -> str:
    """What to do where the hub gave nothing: ask for access where that is what lacks, or what `otherwise` says."""
    if _CLOSED.search(str(error)):
        return "Accept its terms on its page of the hub, and set HF_TOKEN to a token of the account that did."
    return otherwise
