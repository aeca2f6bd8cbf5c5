# SPDX-License-Identifier: GPL-3.0-or-later
"""A Triton that speaks the generate extension as the real one does, traps included, and tiny checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from openai_gateway.app import create_app
from openai_gateway.config import parse_config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

T = TypeVar("T")
SOURCE = Path(__file__).resolve().parents[1]
NEWEST_INPUTS = [
    "text_input",
    "max_tokens",
    "bad_words",
    "stop_words",
    "exclude_input_in_output",
    "end_id",
    "pad_id",
    "top_k",
    "top_p",
    "temperature",
    "repetition_penalty",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "return_log_probs",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "beam_width",
    "stream",
    "length_penalty",
    "embedding_bias_words",
    "embedding_bias_weights",
    "guided_decoding_guide_type",
    "guided_decoding_guide",
]
NEWEST_OUTPUTS = ["text_output", "cum_log_probs", "output_log_probs", "num_input_tokens", "num_output_tokens"]
OLD_INPUTS = [
    "text_input",
    "max_tokens",
    "bad_words",
    "stop_words",
    "end_id",
    "pad_id",
    "top_k",
    "top_p",
    "temperature",
    "repetition_penalty",
    "min_length",
    "presence_penalty",
    "random_seed",
    "return_log_probs",
    "beam_width",
    "stream",
]
OLD_OUTPUTS = ["text_output", "cum_log_probs", "output_log_probs"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_checkpoint(
    directory: Path, *, sentencepiece: bool = False, template: Any = TEMPLATE, added: Sequence[str] = ()
) -> Path:
    """Write a tokenizer that puts <s> before a text, and what belongs to it."""
    directory.mkdir(parents=True, exist_ok=True)
    special = ["<unk>", "<s>", "</s>", "<|eot|>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if sentencepiece:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    text = "What is machine learning? The quick brown fox jumps over the lazy dog. Hello, world! User: 0123456789"
    tokenizer.train_from_iterator([text, "Two words, then more: a1 b2."] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_tokens(list(added))
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    if template is not None:
        config["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    (directory / "config.json").write_text('{"max_position_embeddings": 256, "eos_token_id": 2}')
    return directory


class FakeTriton:
    """A scripted tritonserver: whatever the prompt, it writes ``reply`` token by token, then its end token."""

    def __init__(self, checkpoint: Path, reply: str = "Hello, world!", **options: Any) -> None:
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.reply = reply
        self.decoupled: bool = options.get("decoupled", True)
        self.cumulative: bool = options.get("cumulative", True)
        self.inputs: list[str] = options.get("inputs", NEWEST_INPUTS)
        self.outputs: list[str] = options.get("outputs", NEWEST_OUTPUTS)
        self.add_special_tokens: str = options.get("add_special_tokens", "True")
        self.delay: float = options.get("delay", 0.0)
        self.last_response_is_empty: bool = options.get("last_response_is_empty", False)
        self.guided: str = options.get("guided", "${guided_decoding_backend}")
        self.fail: tuple[int, str] | None = None  # status and words of an error instead of an answer
        self.fail_after: int | None = None  # responses before an error in the middle of a stream
        self.headers: dict[str, str] = {}  # of the last request
        self.seen: list[dict[str, Any]] = []
        self.cancelled = 0
        self.app = Starlette(
            routes=[
                Route("/v2/models/{model}/config", self._config),
                Route("/v2/models/{model}/generate", self._generate, methods=["POST"]),
                Route("/v2/models/{model}/generate_stream", self._stream, methods=["POST"]),
            ]
        )

    async def _config(self, request: Request) -> Response:
        name = request.path_params["model"]
        yes = {"decoupled": self.decoupled}
        known: dict[str, Any] = {
            "tensorrt_llm_bls": {
                "input": [{"name": n} for n in self.inputs],
                "output": [{"name": n} for n in self.outputs],
                "parameters": {"accumulate_tokens": {"string_value": str(self.cumulative)}},
                "model_transaction_policy": yes,
            },
            "ensemble": {
                "input": [{"name": n} for n in self.inputs],
                "output": [{"name": n} for n in self.outputs],
                "ensemble_scheduling": {"step": [{"model_name": "preprocessing"}, {"model_name": "tensorrt_llm"}]},
            },
            "preprocessing": {
                "input": [{"name": "QUERY"}],
                "parameters": {"add_special_tokens": {"string_value": self.add_special_tokens}},
            },
            "tensorrt_llm": {
                "input": [{"name": "input_ids"}],
                "model_transaction_policy": yes,
                "parameters": {"guided_decoding_backend": {"string_value": self.guided}},
            },
        }
        if name not in known:
            return JSONResponse({"error": f"Request for unknown model: '{name}' is not found"}, 400)
        return JSONResponse({"name": name, **known[name]})

    def _read(self, body: dict[str, Any]) -> int:
        special = self.add_special_tokens.lower() == "true"
        return len(self.tokenizer.encode(body["text_input"], add_special_tokens=special).ids)

    def _write(self, body: dict[str, Any]) -> list[int]:
        """The tokens of the answer: at most max_tokens, the last one </s> if the reply is complete."""
        ids = [*self.tokenizer.encode(self.reply, add_special_tokens=False).ids, 2]
        return ids[: body["max_tokens"]]

    def _response(self, body: dict[str, Any], text: str, new: int) -> dict[str, Any]:
        response: dict[str, Any] = {
            "model_name": "tensorrt_llm_bls",
            "model_version": "1",
            "text_output": text,
        }
        if body.get("return_num_output_tokens") and "num_output_tokens" in self.outputs:
            response |= {"num_input_tokens": self._read(body), "num_output_tokens": new}
        if body.get("return_log_probs"):
            response["output_log_probs"] = [-0.5] * new
        return response

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        await asyncio.sleep(self.delay)  # the real one does not notice either that its client has gone
        if self.fail:
            return JSONResponse({"error": self.fail[1]}, self.fail[0])
        if self.last_response_is_empty or (self.decoupled and body.get("stream")):
            words = "generate expects model to produce exactly 1 response, use generate stream for model"
            return JSONResponse({"error": words})
        ids = self._write(body)
        return JSONResponse(self._response(body, self.tokenizer.decode(ids), len(ids)))

    async def _stream(self, request: Request) -> Response:
        self.headers = dict(request.headers)
        body = await request.json()
        self.seen.append(body)
        if self.fail:
            said = f"data: {json.dumps({'error': self.fail[1]})}\n\n"
            return Response(said, self.fail[0], media_type="text/event-stream")
        if body.get("stream") and not self.decoupled:
            words = "Streaming is only supported with model transaction policy decoupled"
            return JSONResponse({"error": words}, 400)
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        ids = self._write(body)
        responses = []
        if body.get("stream"):
            for i in range(len(ids)):
                shown = ids[: i + 1] if self.cumulative else ids[i : i + 1]
                responses.append(self._response(body, self.tokenizer.decode(shown), 1))
        else:
            responses.append(self._response(body, self.tokenizer.decode(ids), len(ids)))
        if self.last_response_is_empty:
            responses.append(self._response(body, "", 0))
        sent = 0
        try:
            for response in responses:
                await asyncio.sleep(self.delay)
                if self.fail_after is not None and sent >= self.fail_after:
                    yield b'data: {"error": "Executor failed process requestId 7"}\n\n'
                    return
                yield b"data: " + json.dumps(response, ensure_ascii=False).encode() + b"\n\n"
                sent += 1
        finally:
            if sent < len(responses) and self.fail_after is None:
                self.cancelled += 1


class Network:
    """Hosts by name: each fake is served on the loopback address; a host that is None refuses connections."""

    def __init__(self, **hosts: FakeTriton | None) -> None:
        self.hosts = hosts
        self._ports: dict[str, int] = {}
        self._servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(self) -> None:
        """Serve the fakes in the running loop."""
        for name, fake in self.hosts.items():
            self._ports[name] = free_port()
            if fake is None:
                continue
            config = uvicorn.Config(fake.app, port=self._ports[name], log_level="error", lifespan="off")
            server = uvicorn.Server(config)
            self._servers.append((server, asyncio.create_task(server._serve())))
            while not server.started:
                await asyncio.sleep(0.001)

    def find(self, host: str, port: int) -> tuple[str, int]:
        """Where a host is."""
        return ("127.0.0.1", self._ports[host]) if host in self._ports else (host, port)

    async def close(self) -> None:
        """End the fakes."""
        for server, task in self._servers:
            server.should_exit = server.force_exit = True
            await task


class Gateway:
    """A gateway in front of *network*; called, it sends one request."""

    def __init__(self, network: Network, *models: dict[str, Any], keys: tuple[str, ...] = (), **top: Any) -> None:
        if keys:
            top["api_keys_file"] = key_file(Path(tempfile.mkdtemp(prefix="keys-")) / "keys", "\n".join(keys))
        self.app = create_app(parse_config({"models": list(models), **top}, "test.yml"), find=network.find)
        self._network = network
        self.loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self.run(self._start())

    async def _start(self) -> None:
        await self._network.start()
        fastapi: Any = self.app._app  # type: ignore[attr-defined]
        self.gateway: Any = fastapi.state.gateway
        await self._stack.enter_async_context(fastapi.router.lifespan_context(fastapi))
        transport = httpx.ASGITransport(app=self.app)
        self.client = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://gw")
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the gateway's loop."""
        return self.loop.run_until_complete(work)

    async def send(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Send one request: GET without a body."""
        if body is None and "content" not in more:
            return await self.client.get(path, **more)
        if isinstance(body, (str, bytes)):
            return await self.client.post(path, content=body, **more)
        return await self.client.post(path, json=body, **more)

    def __call__(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.run(self.send(path, body, **more))

    def close(self) -> None:
        """End all that was started."""
        self.run(self._stack.aclose())
        self.run(self._network.close())
        self.loop.close()


def key_file(path: Path, text: str) -> str:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


OPEN: list[Gateway] = []


def gateway(network: Network, *models: dict[str, Any], keys: tuple[str, ...] = (), **top: Any) -> Gateway:
    """A gateway that is closed when its test ends."""
    OPEN.append(Gateway(network, *models, keys=keys, **top))
    return OPEN[-1]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(app: Any, port: int | None = None) -> Iterator[str]:
    """Serve *app* on the loopback address in a thread; yield its URL."""
    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until and thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)


def model_entry(checkpoint: Path, *urls: str, **more: Any) -> dict[str, Any]:
    """One model of the configuration file."""
    return {
        "name": "tiny",
        "entry_model": "tensorrt_llm_bls",
        "urls": list(urls),
        "tokenizer_dir": str(checkpoint),
        "release": "1.2.1",
        **more,
    }


@contextlib.contextmanager
def running(directory: Path, config: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the gateway as its image does; yield the process and its URL."""
    port = free_port()
    path = directory / "gateway.yml"
    path.write_text(json.dumps({"port": port, "shutdown_timeout": 10, **config}))
    with open(directory / "log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "openai_gateway", "--config", str(path)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            until = time.monotonic() + 20
            while not answers(port):
                assert process.poll() is None and time.monotonic() < until, (directory / "log").read_text()
                time.sleep(0.05)
            yield process, f"http{'s' if 'tls_key' in config else ''}://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether *condition* comes true; the time is a bound for a busy machine, not what is tested."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
