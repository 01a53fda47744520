"""A server of Chat Completions that is wrong in one way: ``python strange_server.py PORT [WAY]``.

Its answers are "word " once a token; a prompt's tokens are its words; it has cached what it saw the beginning of.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAY = sys.argv[2] if len(sys.argv) > 2 else ""
seen: list[list[str]] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(503 if WAY == "never ready" else 200, {})
        elif self.path == "/v1/models" and WAY != "no models":
            self.answer(200, {"data": [{"id": "words"}]} if WAY != "empty list" else {"data": []})
        elif self.path == "/props":
            policy = os.environ.get("GOMP_SPINCOUNT", "none")
            self.answer(200, {"build_info": f"b1-strange, spins {policy}"})
        else:
            self.answer(404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if WAY == "no ignore_eos" and "ignore_eos" in body:
            self.answer(422, {"error": "Unexpected keys: {'ignore_eos'}"})
            return
        words = " ".join(f"{m['role']} {m['content']}" for m in body["messages"]).split()
        if WAY == "short context" and len(words) > 150:
            self.answer(400, {"error": "too long"})
            return
        if WAY == "dies" and len(words) > 150:
            print("strange: out of memory", flush=True)
            os._exit(9)
        cached = max((same(words, before) for before in seen), default=0)
        seen.append(words)
        self.send_response(200)
        self.end_headers()
        tokens = body["max_tokens"] if WAY != "ends early" else 2
        for _ in range(tokens):
            self.event({"choices": [{"delta": {"content": "word "}}]})
            time.sleep(0.001)
        usage = {"prompt_tokens": len(words), "completion_tokens": tokens}
        if WAY != "tells no cache":
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        if WAY != "no usage":
            self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, event):
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def same(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    if WAY == "by a child":
        sys.exit(subprocess.run([sys.executable, __file__, sys.argv[1]]).returncode)
    if WAY == "does not start":
        sys.exit("strange: no such model")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
