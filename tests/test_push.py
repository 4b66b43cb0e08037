"""Pushing a tagger to a hub: a server on loopback that speaks as much of the hub's protocol as an upload needs."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from semtag.configs.load import load_config
from semtag.store.layout import Step
from semtag.store.rounds import delivered_round
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag

TOKEN = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """Takes uploads into `files` of the server, from who has the token."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self.answer({"url": f"{self.server.url}/me/tagger", "name": "me/tagger", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/me/tagger/preupload/main"):
            asked = json.loads(body)["files"]
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            self.answer({"files": files})
        elif self.path.startswith("/api/models/me/tagger/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            for line in (line["value"] for line in lines if line["key"] == "file"):
                self.server.files[line["path"]] = base64.b64decode(line["content"])
            commit = {"commitUrl": f"{self.server.url}/me/tagger/commit/abc", "commitOid": "abc"}
            self.answer(commit)
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.answer({"siblings": [], "sha": "0", "id": "me/tagger"} if allowed else {}, 200 if allowed else 401)

    def answer(self, value: Any, status: int = 200) -> None:
        told = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.made, server.files = [], {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for key, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(key, value)
        yield server
        server.shutdown()


def test_an_adapter_of_a_local_base_is_pushed_merged_alone(hub: Any, finished_run: Path) -> None:
    refused = semtag("push", str(finished_run), "me/tagger")
    assert refused.returncode == 2 and "--merged" in refused.stderr
    assert not hub.made
    done = semtag("push", str(finished_run), "me/tagger", "--merged")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/me/tagger/commit/abc"
    assert (hub.made[0]["organization"], hub.made[0]["name"], hub.made[0]["visibility"]) == ("me", "tagger", "private")
    run = RunDir(finished_run)
    merged = run.layout.round(delivered_round(run)).merged
    sent = {str(file.relative_to(merged)) for file in merged.rglob("*.*")}
    assert hub.files.keys() == sent >= {"README.md", "model.safetensors", "tokenizer.json"}
    assert hub.files["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert b"library_name: transformers" in hub.files["README.md"]
    assert b"base_model:" not in hub.files["README.md"], "no hub knows a base of this machine"


def test_who_may_not_write_gets_an_error_without_the_token(
    hub: Any, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    done = semtag("push", str(finished_run), "me/tagger", "--merged")
    assert done.returncode == 2 and not hub.files
    assert hub.url in done.stderr and "HF_TOKEN" in done.stderr
    assert "hf_of_another" not in done.stdout + done.stderr


def adapter_run(root: Path, base: str, round_: int) -> RunDir:
    """A run that delivers the adapter of that round."""
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run.root={root}", f"model.base={base}", "rounds.count=2"])
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(Step("train", round_), config)
    run.finish(Step("train", round_), {}, {})
    with run.replace_folder(run.layout.round(round_).adapter) as folder:
        (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return run


def test_an_adapter_is_pushed_where_others_can_have_its_start(hub: Any, tmp_path: Path) -> None:
    done = semtag("push", str(adapter_run(tmp_path / "first", "owner/base", 1).path), "me/tagger", "--public")
    assert done.returncode == 0, done.stderr
    assert hub.files.keys() == {"README.md", "adapter_model.safetensors"} and hub.made[0]["visibility"] == "public"
    # That of a later round starts from weights that no hub has.
    done = semtag("push", str(adapter_run(tmp_path / "second", "owner/base", 2).path), "me/tagger")
    assert done.returncode == 2 and "round-1/merged, which is not on a hub" in done.stderr
