"""A stand-in for llama-server that speaks HTTP as the real one does, with replies recorded from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FAKE_SERVER = f"""#!{sys.executable} -IS
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

options = dict(zip(sys.argv[1:], sys.argv[2:]))
if "--version" in sys.argv:
    print("version: 0.5.0-dev (build 0, commit fake)\\nbuilt with nothing", file=sys.stderr)
    sys.exit()
if options.get("--model", "").endswith("broken.gguf"):
    sys.exit(7)
num_health = num_requests = 0

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global num_health
        if self.path == "/health":
            num_health += 1
            self.say(200 if num_health > 1 else 503, b"{{}}")
        elif self.path == "/slots":
            speculates = "--spec-type" in options and "other" not in options.get("--spec-draft-model", "")
            self.say(200, json.dumps([{{"id": 0, "n_ctx": 512, "speculative": speculates}}]).encode())
        else:
            lines = ["# TYPE llamacpp:n_decode_total counter", f"llamacpp:n_decode_total {{5 * num_requests}}",
                     f"llamacpp:spec_decode_num_drafts_total {{4 * num_requests}}"]
            if num_requests:
                name = "llamacpp:spec_decode_num_accepted_tokens_per_pos_total"
                lines += [f'{{name}}{{{{position="{{i}}"}}}} {{n * num_requests}}' for i, n in enumerate([1, 0, 0])]
            self.say(200, "\\n".join(lines).encode())

    def do_POST(self):
        global num_requests
        num_requests += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if 99 in asked["prompt"]:
            error = {{"code": 400, "message": "Prompt contains invalid tokens", "type": "invalid_request_error"}}
            return self.say(400, json.dumps({{"error": error}}).encode())
        timings = {{"cache_n": 0, "prompt_n": len(asked["prompt"]), "prompt_ms": 21.125, "predicted_n": 6,
                   "predicted_ms": 139.758}}
        if "--spec-type" in options:
            timings |= {{"draft_n": 12, "draft_n_accepted": 1}}
        leaked = [name for name in os.environ if name.startswith("LLAMA_")]
        reply = {{"content": "t1526", "tokens": [1526, asked["seed"], *asked["prompt"][:3], 4], "stop_type": "eos",
                 "timings": timings, "asked": asked, "leaked": leaked, "options": sys.argv[1:]}}
        if asked["n_predict"] > 100:
            reply["stop_type"] = "limit"
        self.say(200, json.dumps(reply).encode())

    def say(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *rest):
        pass

if "stubborn" in options.get("--model", ""):
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, executable, in the bin of an environment."""
    path = tmp_path_factory.mktemp("environment") / "bin" / "llama-server"
    path.parent.mkdir()
    path.write_text(FAKE_SERVER)
    path.chmod(0o755)
    return path
