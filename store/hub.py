"""The Hugging Face hub: the download of a model's revision, and advice for closed repositories."""

import re

from semtag.configs.errors import UserError

# The weights, configs and tokenizers that are loaded. A repository may hold other formats as well.
MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_CLOSED = re.compile(r"gated|restricted|\b40[13]\b")  # how the hub's client says that access is missing


def snapshot(repository: str, revision: str) -> str:
    """Download a revision of a model, and return its local folder. Raises UserError when the hub refuses."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(snapshot_download(repository, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"Got no revision {revision} of {repository} from the hub: {str(error).strip().splitlines()[0]}",
            fix_for(error, "Check model.base, model.revision and the network."),
        ) from None


def fix_for(error: Exception, otherwise: str) -> str:
    """Return the advice for an error of the hub: how to get access to a closed repository, or `otherwise`."""
    if _CLOSED.search(str(error)):
        return "Accept the repository's terms on the hub, and set HF_TOKEN to a token of the account that accepted."
    return otherwise
