"""Config as YAML on standard input -> one line that says which texts a run would read. Serves `--dry-run`."""

import sys

import yaml

from configs.errors import UserError
from configs.load import validate
from configs.schema import Data
from generation.readers import detect_format, read_rows
from generation.texts import Texts


def preview(data: Data) -> str:
    """Count the texts of a local source; a hub dataset is only named, so that no network is needed."""
    if detect_format(data) == "hub":
        return f"{data.path}, split {data.split}, from the Hugging Face hub (read when the run starts)"
    texts = Texts(data)
    for row in read_rows(data):
        texts.take(row)
    dropped = "".join(f", {count:,} {reason}" for reason, count in sorted(texts.dropped.items()))
    return f"{texts.rows - texts.dropped.total():,} distinct texts in {texts.rows:,} rows of {data.path}{dropped}"


if __name__ == "__main__":
    try:
        print(preview(validate(yaml.safe_load(sys.stdin)).data))
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)
