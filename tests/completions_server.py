"""A stand-in for vLLM and the like: a real HTTP server that speaks the OpenAI protocol of completions, with ``echo`` and
``logprobs`` and tokens as prompts, and computes with transformers.

What it computes is a real model's; the protocol is written here after what vLLM answers, and what lm-eval's
``local-completions`` reads. A server of others is compared by hand with ``benchmarks/endpoints.py``.

    python -m tests.completions_server FOLDER --port 8000 [--log file] [--dies]

Its base URL is ``http://127.0.0.1:8000/v1``, where the model is ``m``. Below ``/FAULT/v1`` it has a fault: ``silent`` gives no
log-probabilities; ``begins`` puts a token of its own before each prompt; ``drops`` answers one prompt of each request; ``busy``
answers 503 and 429 to every first try; ``broken`` answers 500; ``page`` is a web page; ``keyed`` wants :data:`KEY`; ``named``
serves ``org/m-v2``. With ``--dies`` the process ends at the fifth request.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

KEY = "sk-very-secret-words"


class Model:
    """A model of transformers, greedy, one prompt at a time."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        self.context = int(self.model.config.max_position_embeddings)

    def logprobs(self, tokens: Sequence[int]) -> Any:
        """(tokens, vocabulary), float32."""
        import torch

        with torch.inference_mode():
            return self.model(torch.tensor([list(tokens)])).logits[0].float().log_softmax(-1)

    def echoed(self, tokens: list[int]) -> dict[str, Any]:
        """The prompt and one token more, with their log-probabilities."""
        found = self.logprobs(tokens)
        said = [*tokens, int(found[-1].argmax())]
        of_tokens: list[float | None] = [None]
        tops: list[dict[str, float] | None] = [None]
        for row, token in zip(found, said[1:], strict=True):
            likeliest = int(row.argmax())
            of_tokens.append(float(row[token]))
            tops.append({f"token_id:{one}": float(row[one]) for one in (likeliest, token)})
        words = [f"token_id:{token}" for token in said]
        logprobs = {"tokens": words, "token_logprobs": of_tokens, "top_logprobs": tops, "text_offset": [0] * len(said)}
        return {"text": self.tokenizer.decode(said), "logprobs": logprobs, "finish_reason": "length"}

    def continued(self, tokens: list[int], most: int, stop: Sequence[str]) -> dict[str, Any]:
        """A text and how it ended."""
        said: list[int] = []
        for _ in range(most):
            token = int(self.logprobs([*tokens, *said])[-1].argmax())
            if token == self.model.generation_config.eos_token_id:
                return {"text": self._text(said), "finish_reason": "stop"}
            said.append(token)
            text = self._text(said)
            if found := [text.index(word) for word in stop if word in text]:
                return {"text": text[: min(found)], "finish_reason": "stop"}
        return {"text": self._text(said), "finish_reason": "length"}

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model: Model
    options: argparse.Namespace
    lock = threading.Lock()
    asked = 0
    tried: ClassVar[set[bytes]] = set()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        if self._is_let_in("models"):
            name = "org/m-v2" if self._fault == "named" else "m"
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self._is_let_in("completions"):
            with self.lock:
                self._send(*self._completed(raw))

    def _is_let_in(self, what: str) -> bool:
        fault, _, place = self.path.lstrip("/").rpartition("v1/")
        self._fault = fault.strip("/")
        given = self.headers.get("Authorization", "")
        if self._fault == "keyed" and given != f"Bearer {KEY}":
            self._send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        elif place != what:
            self._send(404, {"error": {"message": f"there is no {self.path}"}})
        else:
            return True
        return False

    def _completed(self, raw: bytes) -> tuple[int, object]:
        """The status and the content of an answer."""
        body: Mapping[str, Any] = json.loads(raw)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        if self.options.log:
            with Path(self.options.log).open("a") as file:
                file.writelines(json.dumps(body | {"prompt": prompt}) + "\n" for prompt in prompts)
        type(self).asked += 1
        match "dies" if self.options.dies else self._fault:
            case "dies" if self.asked >= 5:
                print("out of memory", flush=True)
                os._exit(3)
            case "busy" if raw not in self.tried:
                self.tried.add(raw)
                return 429 if self.asked % 2 else 503, {"error": {"message": "busy"}}
            case "broken":
                return 500, {"error": {"message": "it broke"}}
            case "page":
                return 200, "<html>Welcome</html>"
            case "begins":
                prompts = [[1, *prompt] for prompt in prompts]
        longest = max(map(len, prompts)) + body["max_tokens"]
        if longest > self.model.context:
            text = f"This model's maximum context length is {self.model.context} tokens, you asked for {longest}"
            return 400, {"error": {"message": text}}
        choices = [
            self.model.echoed(prompt)
            if body.get("echo")
            else self.model.continued(prompt, body["max_tokens"], body.get("stop") or [])
            for prompt in prompts
        ]
        if self._fault == "silent":
            choices = [choice | {"logprobs": None} for choice in choices]
        if self._fault == "drops":
            choices = choices[:1]
        return 200, {"choices": [{"index": number} | choice for number, choice in enumerate(choices)]}

    def _send(self, status: int, content: object) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--dies", action="store_true")
    Handler.options = parser.parse_args()
    Handler.model = Model(Handler.options.folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", Handler.options.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
