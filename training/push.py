"""`semtag push`: upload of a tagger to the Hugging Face hub, or to the hub that HF_ENDPOINT names."""

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.locations import is_hub_name, local_folder, uri
from semtag.store.packaged import is_packaged
from semtag.store.rounds import delivered_round, start_of
from semtag.store.run_dir import RunDir


def push(run: RunDir, config: Config, name: str, merged: bool, public: bool) -> str:
    """Upload the tagger's adapter, or its merged weights, to the repository `name` in one commit; return its URL.

    A missing repository is created, private unless `public`. huggingface_hub finds the token in HF_TOKEN or from
    `hf auth login`. Raises UserError if the run has no tagger, the adapter's base is not on a hub, or the hub rejects
    the upload.
    """
    number = delivered_round(run)
    layout, base = run.layout.round(number), start_of(run, config, number)
    folder = layout.merged if merged else layout.adapter
    if not merged and not (number == 1 and is_hub_name(base)):
        dequantised = "is not on a hub with these weights, which are dequantised from a Python package's file"
        raise UserError(
            f"The adapter starts from {base}, which {dequantised if is_packaged(base) else 'is not on a hub'}, "
            "so nobody else could load the adapter.",
            "Upload the merged weights with --merged.",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        repository = hub.create_repo(name, private=not public, exist_ok=True).repo_id
        commit = hub.upload_folder(
            repo_id=repository, folder_path=local_folder(uri(folder)), commit_message=f"{config.run.name}, by Semtag"
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise UserError(
            f"The hub at {hub.endpoint} rejected {name}: {str(error).strip().splitlines()[0]}",
            "Name the repository OWNER/NAME. Set HF_TOKEN to a token that may write, or run `hf auth login`.",
        ) from None
    return commit.commit_url
