"""A server with OpenAI's API on loopback, which answers by a rule and meets a list of troubles in turn."""

import contextlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sk-a-key-that-nobody-may-see"
SAMPLES = 3
READ, WRITTEN = 100, 10  # tokens of a prompt and of an answer, by the server's count


class Server(ThreadingHTTPServer):
    """A server that answers `[word][seed]` for a text's last word, after one trouble of a list for each request."""

    daemon_threads = True

    def __init__(self, troubles: list[str], most: int) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.troubles, self.most = itertools.cycle(troubles), most
        self.met: Counter[str] = Counter()
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answers(BaseHTTPRequestHandler):
    """What the server does with a request: answer, or the trouble whose turn it is."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a chat completion."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][-1]["content"]
        self.server.asked.append(asked)
        self.server.keys.add(self.headers["Authorization"])
        trouble = "poison" if "poison" in text else "refused" if "forbidden" in text else next(self.server.troubles)
        self.server.met[trouble] += 1
        judged = judgement_of(text)
        choices = [
            {
                "index": i,
                "message": {"content": judged or f"[{text.split()[-1]}][{asked['seed'] + i}]"},
                "finish_reason": "stop",
            }
            for i in range(min(asked["n"], self.server.most))
        ]
        usage = {"prompt_tokens": READ, "completion_tokens": WRITTEN * len(choices)}
        whole = json.dumps({"choices": choices, "usage": usage}).encode()
        status, body = {
            "429": (429, b"slow down"),
            "500": (500, b"{}"),
            "poison": (500, b"out of memory"),
            "refused": (400, b'{"error": {"message": "not that word"}}'),
            "many": (400 if asked["n"] > 1 else 200, whole),
            "no money": (429, b'{"error": {"code": "insufficient_quota"}}'),
            "key": (401, f'{{"error": "wrong key {SECRET}"}}'.encode()),
            "echo": (404, f'{{"error": "no model for {SECRET}"}}'.encode()),
            "no choices": (200, b'{"choices": []}'),
            "null": (200, b'{"choices": [null]}'),
            "page": (200, b"<html>\xff down</html>"),
        }.get(trouble, (200, whole))
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if trouble == "type" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if trouble == "429":
            self.send_header("Retry-After", "0.02")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if trouble == "cut" else body)
        self.close_connection = trouble == "cut"

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def judgement_of(text: str) -> str:
    """The letter of the list with `fine`, C where both or none have it; empty for a text that is no question."""
    if "=== list A ===" not in text:
        return ""
    first, second = ("fine" in part for part in text.split("=== list A ===")[1].split("=== list B ==="))
    return "C" if first == second else " A." if first else "B is better"


@contextlib.contextmanager
def serving(*troubles: str, most: int = SAMPLES) -> Iterator[Server]:
    with Server([*troubles] or ["none"], most) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
