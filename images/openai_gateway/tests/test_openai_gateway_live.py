# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway as a process, spoken to by the official client over a socket."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import httpx
import openai
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from openai_gateway import probe
from openai_gateway_fakes import SOURCE, FakeTriton, make_checkpoint, model_entry, running, serving, wait_for

pytestmark = pytest.mark.slow

KEY = "sk-test-0123456789"
POST = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> FakeTriton:
    return FakeTriton(make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny"))


@pytest.fixture(scope="module")
def checkpoint(triton: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "log"


@pytest.fixture(scope="module")
def url(triton: FakeTriton, checkpoint: Path, log: Path) -> Iterator[str]:
    directory = log.parent
    keys = directory / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{KEY}\n")
    with serving(triton.app) as backend:
        models = [
            model_entry(checkpoint, backend),
            model_entry(checkpoint, "http://127.0.0.1:9", name="down"),
        ]
        with running(directory, {"models": models, "api_keys_file": str(keys), "read_timeout": 1}) as (
            _process,
            address,
        ):
            yield address
    assert KEY not in (directory / "log").read_text()


@pytest.fixture
def client(url: str, triton: FakeTriton) -> openai.OpenAI:
    triton.delay, triton.fail, triton.cancelled, triton.reply = 0.0, None, 0, "Hello, world!"
    triton.seen.clear()
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_the_official_client_gets_what_it_expects(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "down"]
    assert client.models.retrieve("tiny").id == "tiny"
    chat = client.chat.completions.create(model="tiny", messages=HI, max_tokens=50, seed=1, stop=["zzz"])
    assert chat.choices[0].message.content == "Hello, world!"
    assert chat.usage is not None and chat.usage.completion_tokens > 1
    plain = client.completions.create(model="tiny", prompt="Hi", temperature=0)
    assert (plain.choices[0].text, plain.choices[0].finish_reason) == ("Hello, world!", "stop")


def test_the_official_client_reads_streams(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.reply = "naïve €5 😀!"
    options: Any = {"include_usage": True}
    stream = list(client.chat.completions.create(model="tiny", messages=HI, stream=True, stream_options=options))
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == triton.reply
    assert stream[-1].usage is not None and stream[-1].usage.prompt_tokens > 1
    plain = client.completions.create(model="tiny", prompt="Hi", stream=True, stop=" €")
    assert "".join(chunk.choices[0].text for chunk in plain) == "naïve"


def test_the_official_client_raises_the_right_errors(client: openai.OpenAI, url: str, triton: FakeTriton) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="Hi")
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="Hi", n=200)
    assert refused.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.InternalServerError) as down:
        client.completions.create(model="down", prompt="Hi")
    assert down.value.status_code == 503 and down.value.response.headers["retry-after"]
    triton.fail = (400, "Stub process 'preprocessing_0_0' is not healthy.")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="tiny", prompt="Hi", stream=True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_work_in_triton(
    client: openai.OpenAI, url: str, triton: FakeTriton, stream: bool
) -> None:
    triton.delay = 0.1
    body = {"model": "tiny", "prompt": "Hi", "stream": stream}
    headers = {"Authorization": f"Bearer {KEY}"}
    request = httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=0.5)
    with contextlib.suppress(httpx.ReadTimeout), request as answer:
        next(answer.iter_bytes())
    assert wait_for(lambda: triton.cancelled == 1)
    assert "\nopenai_gateway_requests_running 0.0\n" in httpx.get(f"{url}/metrics").text


def test_abandoned_requests_do_not_keep_the_next_one_waiting(
    client: openai.OpenAI, url: str, triton: FakeTriton
) -> None:
    triton.delay = 3600
    connections = [begun(url, {"model": "tiny", "prompt": "Hi", "stream": n % 2 == 0}) for n in range(20)]
    assert wait_for(lambda: len(triton.seen) == 20)
    for connection in connections:
        connection.close()
    assert wait_for(lambda: triton.cancelled == 20)
    triton.delay = 0
    assert client.completions.create(model="tiny", prompt="Hi").choices[0].text == "Hello, world!"


def test_a_client_is_seen_to_go_after_a_long_body(client: openai.OpenAI, url: str, triton: FakeTriton) -> None:
    """No more is read of a connection than a body's worth, until somebody wants to know more."""
    triton.delay = 3600
    connection = begun(url, {"model": "tiny", "prompt": "Hi", "user": "x" * 500_000})
    assert wait_for(lambda: len(triton.seen) == 1)
    connection.close()
    assert wait_for(lambda: triton.cancelled == 1)


def test_requests_of_clients_that_went_at_once_are_nobodys_work(
    triton: FakeTriton, checkpoint: Path, tmp_path: Path
) -> None:
    triton.seen.clear()
    with serving(triton.app) as backend, running(tmp_path, {"models": [model_entry(checkpoint, backend)]}) as found:
        process, url = found
        process.send_signal(signal.SIGSTOP)  # so that it finds all of them gone, however quick it is
        for _ in range(20):
            begun(url, {"model": "tiny", "prompt": "Hi"}).close()
        process.send_signal(signal.SIGCONT)
        counted = 'openai_gateway_requests_total{code="499",endpoint="completions",model="tiny"} 20.0'
        assert wait_for(lambda: counted in httpx.get(f"{url}/metrics", timeout=60).text)
        assert not triton.seen
    assert "ERROR" not in (tmp_path / "log").read_text()


def begun(url: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request for an answer was sent."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{POST}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\nX-Much: " + b"x" * 200_000, b"431"),
        (b"GET /v1/models HTTP/1.1\r\nX-Little: x", b"408"),
        (
            b"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer "
            + KEY.encode()
            + b"\r\nContent-Length: 9\r\n\r\n{",
            b"408",
        ),
        (b"", b"408"),
    ],
)
def test_nobody_keeps_a_connection_by_never_finishing_a_request(url: str, sent: bytes, status: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        assert connection.recv(4096).split(b" ")[1] == status
        with contextlib.suppress(ConnectionResetError):  # what was not read of a head
            assert connection.recv(4096) == b""


def test_nothing_that_a_client_sends_passes_for_a_line_or_a_field_of_the_log(url: str, log: Path) -> None:
    httpx.get(f"{url}/v1/%0aINFO%20forged")
    httpx.get(f"{url}/v1/models", headers={"X-Request-Id": "x status=200 id=forged"})
    text = log.read_text()
    assert "\nINFO forged" not in text and "status=200 id=forged" not in text
    assert r'"/v1/\nINFO forged" status=401' in text


def test_a_stop_sequence_stops_the_work_in_triton(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.delay = 0.02
    triton.reply = "Hello, world! " * 4
    list(client.completions.create(model="tiny", prompt="Hi", stream=True, stop="world", max_tokens=100))
    assert wait_for(lambda: triton.cancelled == 1)


def test_sigterm_lets_running_requests_finish(triton: FakeTriton, checkpoint: Path, tmp_path: Path) -> None:
    triton.delay, triton.fail, triton.reply = 0.1, None, "Hello, world!"
    with (
        serving(triton.app) as backend,
        running(tmp_path, {"models": [model_entry(checkpoint, backend)]}) as (
            process,
            address,
        ),
    ):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="tiny", prompt="Hi", stream=True)
        text = next(iter(stream)).choices[0].text
        process.send_signal(signal.SIGTERM)
        text += "".join(chunk.choices[0].text for chunk in stream)
        assert text == "Hello, world!"
        assert process.wait(10) == 0
    log = (tmp_path / "log").read_text()
    assert "finish=stop" in log and "Hello" not in log, "what is said is nobody's business"


@contextlib.contextmanager
def listening(directory: Path, listener: socket.socket) -> Iterator[subprocess.Popen[str]]:
    """Run the gateway as systemd and podman do: with a socket that stays when it goes."""
    number = listener.fileno()
    command = f"exec 3<&{number}; LISTEN_PID=$$ LISTEN_FDS=1 exec {sys.executable} -m openai_gateway --config $0"
    with open(directory / "log", "a") as log:
        process = subprocess.Popen(
            ["bash", "-c", command, str(directory / "gateway.yml")],
            env={**os.environ, "PYTHONPATH": str(SOURCE)}, pass_fds=[number], stdout=log, stderr=log, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_is_refused_while_it_restarts(
    triton: FakeTriton, checkpoint: Path, tmp_path: Path, workers: int
) -> None:
    triton.delay, triton.fail = 0.0, None
    with serving(triton.app) as backend, socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        config = {"models": [model_entry(checkpoint, backend)], "workers": workers, "port": 1}
        (tmp_path / "gateway.yml").write_text(json.dumps(config))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"
        statuses: list[int] = []
        until = time.monotonic() + 60

        def ask() -> None:
            while len(statuses) < 200 or not restarted.is_set():
                assert time.monotonic() < until
                try:
                    answer = httpx.post(url, json={"model": "tiny", "prompt": "Hi"}, timeout=30)  # a connection each
                    statuses.append(answer.status_code)
                except httpx.HTTPError:
                    statuses.append(0)

        restarted = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        with listening(tmp_path, listener) as process:
            for thread in threads:
                thread.start()
            assert wait_for(lambda: len(statuses) > 50, 30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        with listening(tmp_path, listener):
            before = len(statuses)
            assert wait_for(lambda: len(statuses) > before + 20, 30)
            restarted.set()
            for thread in threads:
                thread.join(60)
        assert set(statuses) == {200}, (tmp_path / "log").read_text()[-2000:]


def test_several_workers_are_one_gateway(triton: FakeTriton, checkpoint: Path, tmp_path: Path) -> None:
    """They count together, a dead one is replaced, and all end as one."""
    triton.delay, triton.fail, triton.reply = 0.0, None, "Hello, world!"
    with serving(triton.app) as backend:
        config = {"models": [model_entry(checkpoint, backend)], "workers": 2}
        with running(tmp_path, config) as (process, address):
            ask = {"model": "tiny", "prompt": "Hi"}

            def counted(number: int) -> bool:
                return (
                    f'openai_gateway_requests_total{{code="200",endpoint="completions",model="tiny"}} {number}.0'
                    in (httpx.get(f"{address}/metrics", timeout=60).text)
                )

            for _ in range(20):  # a connection each
                assert httpx.post(f"{address}/v1/completions", json=ask, timeout=60).status_code == 200
            assert wait_for(lambda: counted(20))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            first, second = children.read_text().split()
            os.kill(int(first), signal.SIGKILL)
            assert wait_for(lambda: len(set(children.read_text().split()) - {first}) == 2)
            for _ in range(20):
                assert httpx.post(f"{address}/v1/completions", json=ask, timeout=60).status_code == 200
            assert wait_for(lambda: counted(40)), "what a dead worker counted is not lost"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert not Path(f"/proc/{second}").exists()


def certificate(directory: Path) -> dict[str, Path]:
    """A key and a certificate of its own for 127.0.0.1, in the files that the configuration names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"tls_key": directory / "key.pem", "tls_certificate": directory / "cert.pem"}
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files["tls_key"].write_bytes(key.private_bytes(*form))
    files["tls_certificate"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return files


def test_workers_do_not_outlive_who_started_them(checkpoint: Path, tmp_path: Path) -> None:
    config = {"models": [model_entry(checkpoint, "http://127.0.0.1:9")], "workers": 2}
    with running(tmp_path, config) as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert wait_for(lambda: len(children.read_text().split()) == 2, 20)
        workers = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
        assert httpx.get(f"{url}/health", timeout=30).status_code == 200
        process.kill()
        assert wait_for(lambda: not any(_lives(worker) for worker in workers), 20)


def _lives(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_may_speak_https(triton: FakeTriton, checkpoint: Path, tmp_path: Path, workers: int) -> None:
    files = certificate(tmp_path)
    config: dict[str, Any] = {name: str(path) for name, path in files.items()}
    with serving(triton.app) as backend:
        config |= {"models": [model_entry(checkpoint, backend)], "workers": workers}
        with running(tmp_path, config) as (_process, address):
            trusted = ssl.create_default_context(cafile=config["tls_certificate"])
            body = {"model": "tiny", "prompt": "Hi"}
            answer = httpx.post(f"{address}/v1/completions", json=body, verify=trusted, timeout=60)
            assert address.startswith("https") and answer.status_code == 200
            assert probe.main(f"{address}/health") == 0, "by an address, as the container's health check does"


@pytest.mark.parametrize(("change", "status"), [({}, 0), ({"prot": 1}, 2)])
def test_a_configuration_is_checked_from_the_input(checkpoint: Path, change: dict[str, Any], status: int) -> None:
    text = yaml.safe_dump({"models": [model_entry(checkpoint, "http://x:1")], **change})
    command = [sys.executable, "-m", "openai_gateway", "--check", "--config", "-"]
    done = subprocess.run(command, input=text, cwd=SOURCE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status and ("did you mean 'port'" in done.stderr) == bool(status)


def test_a_checkpoint_that_no_worker_can_read_ends_all(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yml"
    path.write_text(json.dumps({"port": 0, "workers": 2, "models": [model_entry(tmp_path, "http://x:1")]}))
    command = [sys.executable, "-m", "openai_gateway", "--config", str(path)]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and "has no tokenizer.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": []}, "'models' is []; it should have at least one entry"),
        ({"prot": 1}, "did you mean 'port'"),
        ({"port": 99999}, "'port' is 99999; it should be less than or equal to 65535"),
        ({"tls_key": "/x"}, "tls_certificate and tls_key belong together"),
        ({"api_keys_file": "/nowhere"}, "cannot read the API keys /nowhere"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "gateway.yml"
    path.write_text(json.dumps({"models": [model_entry(checkpoint, "http://x:1")], **change}))
    command = [sys.executable, "-m", "openai_gateway", "--check", "--config", str(path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
