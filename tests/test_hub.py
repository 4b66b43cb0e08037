"""What a hub does not give to everybody is named, with what to do: a hub on loopback, and the real commands."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from semtag.store.locations import local_folder
from tests.conftest import semtag

GATED = "Access to this repository is restricted: it is gated."


class Gated(BaseHTTPRequestHandler):
    """A hub all of whose repositories are gated."""

    def do_GET(self) -> None:
        """Refuse as the hub does."""
        told = json.dumps({"error": GATED}).encode()
        self.send_response(401)
        for name, value in {"X-Error-Code": "GatedRepo", "X-Error-Message": GATED, "Content-Length": len(told)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(told)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for key, value in {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}.items():
            monkeypatch.setenv(key, value)
        yield url
        server.shutdown()


@pytest.mark.parametrize(
    "of_hub",
    [["data.path=me/gated"], ["model.base=me/gated"], ["model.base=me/gated", "model.revision=v1"]],
    ids=["data", "model", "revision"],
)
def test_what_is_gated_is_named_with_what_to_do(hub: str, tmp_path: Path, of_hub: list[str]) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a mill"}\n{"text": "a loom"}\n')
    local = [f"data.path={tmp_path / 'texts.jsonl'}", "data.held_out=0", "rounds.validation=0", "rounds.texts=reuse"]
    done = semtag("rank", "configs/demo.yaml", f"run.root={tmp_path}", *local, "data.limit=null", *of_hub)
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "me/gated" in said and "Accept the repository's terms" in said and "HF_TOKEN" in said
    assert "Traceback" not in said
    assert local_folder("me/gated") == "me/gated"
