# SPDX-License-Identifier: GPL-3.0-or-later
"""A Triton that recites: small enough to be wrong in exactly one way at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = "Machine learning is a field of computer science in which programs improve by studying them"
SENTENCE = TEXT.split()
# Of the BLS model: requests go to them in turn.
INSTANCES = 8
MODELS = ["ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls"]


class FakeTriton:
    """*faults* name what is wrong: see `Handler`."""

    def __init__(self, faults: set[str], gathers: set[str]) -> None:
        self.faults, self.gathers = faults, gathers
        self.served = 0
        self.asked = 0
        self.active = 0
        self.url = ""

    def words(self, request: dict[str, Any]) -> list[str]:
        """The words of the answer, a token each, with the blank before."""
        count = int(request["max_tokens"])
        words = [f" {word}" for word in (SENTENCE * (count // len(SENTENCE) + 1))][:count]
        bad, stop = (
            [word] if isinstance(word, str) else word for word in (request["bad_words"], request["stop_words"])
        )
        if "bad_words" not in self.faults:
            words = [" thing" if word in bad else word for word in words]
        for index, word in enumerate(words):
            if word in stop and "stop_words" not in self.faults:
                return words[: index + 1]
        return words

    def generate(self, model: str, request: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if "dead stub" in self.faults or ("one dead stub" in self.faults and self.asked % INSTANCES == 0):
            return {"error": "Failed to process the request(s), message: Stub process is not healthy."}
        self.served += 1
        if model == "tensorrt_llm":
            ids = [7, 8, 9, 10, 11, 12]
            end = request.get("end_id")
            ids = ids[: ids.index(end)] if end in ids and "end_id" not in self.faults else ids
            return {"output_ids": ids if len(ids) > 1 else ids[0], "sequence_length": len(ids)}
        answer: dict[str, Any] = {"text_output": "" if "empty" in self.faults else "".join(self.words(request))}
        for which in ("context", "generation"):
            if request.get(f"return_{which}_logits"):
                if which not in self.gathers:
                    return {"error": f"{which} logits are not gathered by this engine"}
                answer[f"{which}_logits"] = [0.5] * 8
        return answer

    def metrics(self) -> str:
        lines = [
            "# TYPE nv_inference_request_success counter",
            f'nv_inference_request_success{{model="ensemble",version="1"}} {self.served}',
            'nv_gpu_utilization{gpu_uuid="GPU-1 \\"x\\""} 0.5',
            "process_cpu_seconds_total 3",
        ]
        if "no own metrics" not in self.faults:
            active = 'nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"}'
            lines += [f"{active} {self.active}", 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free"} 256']
        return "\n".join(lines)


class Handler(BaseHTTPRequestHandler):
    """HTTP of `FakeTriton`."""

    protocol_version = "HTTP/1.1"
    triton: FakeTriton

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/metrics":
            return self.reply(200, self.triton.metrics())
        if path == "/v2":
            return self.reply(200, {"name": "triton", "version": "2.51.0", "extensions": ["generate"]})
        if path.endswith("/config"):
            policy = {"decoupled": "unary" not in self.triton.faults}
            count = INSTANCES if "tensorrt_llm_bls" in path else 1
            groups = [{"kind": "KIND_CPU", "count": count, "gpus": []}]
            return self.reply(200, {"model_transaction_policy": policy, "instance_group": groups})
        if path == "/v2/models/stats":
            phase = {"count": 2, "ns": 3000000}
            stats = {
                "name": "ensemble",
                "version": "1",
                "inference_count": 2,
                "execution_count": 2,
                "last_inference": 5,
            }
            return self.reply(200, {"model_stats": [{**stats, "inference_stats": {"success": phase, "queue": phase}}]})
        ready = not ("unready" in self.triton.faults and "postprocessing" in path)
        return self.reply(200 if ready else 400, "")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if self.path.startswith("/v2/repository/index"):
            models = () if "no repository" in self.triton.faults else MODELS
            return self.reply(200, [{"name": name, "version": "1", "state": "READY"} for name in models])
        _empty, _v2, _models, model, verb = self.path.split("/")
        request = json.loads(body)
        if verb == "generate":
            answer = self.triton.generate(model, request)
            return self.reply(400 if "error" in answer and "200" not in self.triton.faults else 200, answer)
        return self.stream(request)

    def stream(self, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.triton.active += 1
        self.close_connection = True
        try:
            so_far = ""
            for word in self.triton.words(request):
                piece = word.strip() if "blanks" in self.triton.faults else word
                so_far += piece
                text = so_far if "accumulate" in self.triton.faults else piece
                self.wfile.write(f"data: {json.dumps({'text_output': text})}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.002)
        except OSError:
            pass
        finally:
            self.triton.active -= 0 if "deaf" in self.triton.faults else 1


@contextmanager
def fake_triton(*faults: str, gathers: set[str] = frozenset()) -> Iterator[FakeTriton]:  # type: ignore[assignment]
    """A server for HTTP and metrics on one port."""
    triton = FakeTriton(set(faults), set(gathers))
    # Many are asked for at once, and the queue of Python's own server has room for five.
    kind = type("Server", (ThreadingHTTPServer,), {"request_queue_size": 128})
    server = kind(("127.0.0.1", 0), type("Bound", (Handler,), {"triton": triton}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    triton.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield triton
    finally:
        server.shutdown()
        server.server_close()
