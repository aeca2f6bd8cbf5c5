# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification passes a replica that does what the documents say, and names what a broken one does not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.serving import verify_report
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import verify as triton_verify
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import verify_by_api as triton_verify_by_api
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.client import TritonError
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import parse_gate
from unit.triton_fakes import fake_triton

pytestmark = pytest.mark.slow

pytest.importorskip("tritonclient.http")


def verify(*faults: str, gathers: set[str] = frozenset(), **options: Any) -> dict[str, triton_verify.Outcome]:  # type: ignore[assignment]
    with fake_triton(*faults, gathers=gathers) as triton:
        target = triton_verify.Target(
            triton.url, triton.url, gathers=sorted(gathers), early_stop_ms=20, early_stop_tokens=4000, **options
        )
        return {outcome.name: outcome for outcome in triton_verify.Verification(target).run()}


def failed(outcomes: dict[str, triton_verify.Outcome]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.ok is False}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_verify, "CANCEL_SECONDS", 0.5)


def test_a_good_replica_passes_every_check_of_the_documents() -> None:
    outcomes = verify()
    assert failed(outcomes) == set()
    assert len(outcomes) == 1 + 2 * 7 + 1 + 1 + 2 + 1
    assert all(outcome.ok for outcome in outcomes.values())
    assert "no request active" in outcomes["tensorrt_llm_bls early stop"].answer
    assert "not gathered" in outcomes["context logits"].answer


def test_logits_that_are_gathered_are_returned() -> None:
    outcomes = verify(gathers={"context"})
    assert "8 values" in outcomes["context logits"].answer
    assert "not gathered" in outcomes["generation logits"].answer


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unready", "readiness"),
        ("empty", "ensemble generate"),
        ("one dead stub", "tensorrt_llm_bls every instance"),
        ("one dead stub", "ensemble every instance"),
        ("bad_words", "ensemble bad_words as a list"),
        ("bad_words", "tensorrt_llm_bls bad_words as a string"),
        ("stop_words", "ensemble stop_words as a string"),
        ("blanks", "tensorrt_llm_bls streaming"),
        ("deaf", "tensorrt_llm_bls early stop"),
        ("end_id", "end_id"),
        ("no own metrics", "metrics"),
    ],
)
def test_what_is_broken_is_named(fault: str, what: str) -> None:
    assert what in failed(verify(fault))


@pytest.mark.parametrize("faults", [("dead stub",), ("dead stub", "200")])
def test_a_dead_process_is_seen_whatever_the_status(faults: tuple[str, ...]) -> None:
    outcomes = verify(*faults)
    assert outcomes["readiness"].ok is True  # Triton itself says ready
    assert "Stub process is not healthy" in outcomes["tensorrt_llm_bls generate"].answer
    assert {"ensemble generate", "tensorrt_llm_bls generate"} <= failed(outcomes)


def test_a_replica_whose_repository_was_taken_away_under_it_is_told_as_that() -> None:
    outcomes = verify("no repository")
    assert failed(outcomes) == {"readiness"}, outcomes
    assert "its model repository was removed or replaced under it" in outcomes["readiness"].answer


def test_lost_blanks_are_told_apart_from_another_answer() -> None:
    assert "blanks lost" in verify("blanks")["tensorrt_llm_bls streaming"].answer


def test_a_stream_that_repeats_all_so_far_is_understood() -> None:
    assert verify("accumulate")["tensorrt_llm_bls streaming"].ok is True


def test_a_request_to_an_ensemble_is_cancelled_only_where_there_is_nothing_else() -> None:
    assert "ensemble early stop" not in verify()
    assert "ensemble early stop" in verify(entry_models=["ensemble"])


def test_a_repository_that_does_not_stream_is_not_asked_to() -> None:
    assert not [name for name in verify("unary") if "stream" in name or "early" in name]


def test_an_engine_that_gathers_less_than_it_says_fails() -> None:
    with fake_triton() as triton:
        target = triton_verify.Target(triton.url, gathers=["context"])
        verification = triton_verify.Verification(target)
        with pytest.raises(triton_verify.Failed, match="not gathered"):
            verification.logits("context")


def test_older_releases_get_the_names_they_know() -> None:
    targets = (triton_verify.Target("http://x", release=release) for release in (LAST, "0.16.0"))
    new, old = map(triton_verify.Verification, targets)
    assert "seed" in new._greedy() and "random_seed" in old._greedy()


def test_a_server_that_is_not_there_fails_every_check_with_the_reason() -> None:
    target = triton_verify.Target("http://127.0.0.1:9", "http://127.0.0.1:9", timeout=1)
    outcomes = triton_verify.Verification(target).run()
    assert all(outcome.ok is not True for outcome in outcomes)
    assert "did not answer" in outcomes[0].answer


def test_the_gateway_is_asked_with_the_official_client() -> None:
    pytest.importorskip("openai")
    outcome = verify(gateway_url="http://127.0.0.1:9", timeout=2)["chat completion"]
    assert outcome.ok is False
    assert "the gateway at http://127.0.0.1:9 refused" in outcome.answer


def test_the_report_of_a_fleet_is_ok_only_when_all_is() -> None:
    outcome = vars(triton_verify.Outcome("n", "r", "e", "a", True, 0.1))
    good = {"item": {"replica": "a-0"}, "ok": True, "checks": [outcome]}
    bad = {"item": {"replica": "b-0"}, "msg": "no tunnel"}
    assert verify_report({"h1": [good]})["ok"] is True
    report = verify_report({"h1": [good], "h2": [bad]})
    assert (report["ok"], report["hosts"]["h1"]["ok"], report["hosts"]["h2"]["ok"]) == (False, True, False)
    assert report["hosts"]["h2"]["replicas"]["b-0"]["error"] == "no tunnel"
    assert "no tunnel" in report["table"]


def test_a_replica_that_could_not_be_asked_says_why() -> None:
    lost = {"item": {"replica": "a-0", "problem": "the release record does not tell of it"}, "msg": "url is empty"}
    report = verify_report({"h1": [lost]})
    assert report["hosts"]["h1"]["replicas"]["a-0"]["error"] == "the release record does not tell of it"
    assert report["table"][-1] == "the release record does not tell of it"
    assert "-vvv" in verify_report({"h1": [{"item": {"replica": "a-0"}}]})["table"][-1]


@pytest.mark.parametrize(
    "empty", [{"url": ""}, {"url": "http://x", "entry_models": []}, {"url": "http://x", "release": ""}]
)
def test_nothing_to_verify_is_a_sentence(empty: dict[str, Any]) -> None:
    with pytest.raises(FleetError, match="is empty, so there is nothing to verify"):
        triton_verify.Target(**empty)


class TestGate:
    """What an operator expects beside the documents."""

    def gate(self, *faults: str, **given: Any) -> dict[str, triton_verify.Outcome]:
        return verify(*faults, gate=parse_gate(given), gate_only=True)

    def test_prompts_are_answered_as_expected(self) -> None:
        expected = [{"prompt": "Why?", "contains": "is"}, {"prompt": "How?", "max_tokens": 3, "matches": "^\\s*\\w+"}]
        outcomes = self.gate(prompts=expected, max_time_to_first_token_ms=20000, min_tokens_per_second=0.1)
        assert failed(outcomes) == set()
        assert set(outcomes) == {"readiness", "gate: prompt", "gate: speed"}
        assert "tokens/s" in outcomes["gate: speed"].answer

    @pytest.mark.parametrize("expected", [{"contains": "Paris"}, {"matches": "^Paris$"}, {"equals": "Paris"}])
    def test_another_answer_is_named(self, expected: dict[str, str]) -> None:
        outcome = self.gate(prompts=[{"prompt": "Capital of France?", **expected}])["gate: prompt"]
        assert outcome.ok is False
        assert "Paris" in outcome.answer

    def test_a_slow_replica_is_named(self) -> None:
        assert "later than 0.001" in self.gate(max_time_to_first_token_ms=0.001)["gate: speed"].answer
        assert "less than 1e+06" in self.gate(min_tokens_per_second=1e6)["gate: speed"].answer

    def test_speed_is_not_judged_where_nothing_streams(self) -> None:
        assert self.gate("unary", min_tokens_per_second=1)["gate: speed"].ok is None

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"prompts": [{"prompt": " "}]}, r"prompts\[0\].prompt is empty"),
            ({"prompts": [{"prompt": "a", "matches": "("}]}, "no regular expression"),
            ({"prompts": [{"prompt": "a", "max_tokens": 0}]}, "max_tokens is 0"),
            ({"min_tokens_per_second": 0}, "min_tokens_per_second is 0"),
        ],
    )
    def test_what_could_never_hold_is_refused(self, given: dict[str, Any], sentence: str) -> None:
        with pytest.raises(FleetError, match=sentence):
            parse_gate(given)


def test_a_server_that_hangs_is_not_asked_again_and_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begin = time.monotonic()
        outcomes = triton_verify.Verification(triton_verify.Target(url, timeout=1, streaming=False)).run()
    assert time.monotonic() - begin < 10
    assert outcomes[0].ok is False
    assert {outcome.answer for outcome in outcomes[1:]} == {"not asked, as the server gave no answer before"}


@pytest.mark.parametrize("what", ["config", "generate"])
def test_one_that_hangs_after_an_answer_is_asked_once_more(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what each of its models is, nor by the checks that follow."""
    with fake_triton() as triton:
        verification = triton_verify.Verification(triton_verify.Target(triton.url, streaming=False))
        asked = []
        real = {name: getattr(verification.client, name) for name in ("get", "generate")}

        def get(path: str, base: str | None = None) -> Any:
            if what == "config" and path.endswith("/config"):
                asked.append(path)
                raise TritonError("it gives no answer: timed out")
            return real["get"](path, base)

        def generate(model: str, request: Any) -> Any:
            if what == "generate" and request["max_tokens"] == 1:
                asked.append(model)
                raise TritonError("it gives no answer: timed out")
            return real["generate"](model, request)

        monkeypatch.setattr(verification.client, "get", get)
        monkeypatch.setattr(verification.client, "generate", generate)
        outcomes = {outcome.name: outcome for outcome in verification.run()}
    assert failed(outcomes) == {"ensemble every instance"}
    assert outcomes["ensemble every instance"].answer.endswith("it gives no answer: timed out")
    assert len(asked) == 1 if what == "config" else set(asked) == {"ensemble"}
    assert outcomes["ensemble bad_words as a list"].answer == "not asked, as the server gave no answer before"


def test_nothing_that_a_terminal_obeys_stands_in_the_table() -> None:
    said = triton_verify.shorten("one\ntwo \x1b[2J\x07three")
    assert said == "one two \\x1b[2J\\x07three"
    outcome = triton_verify.Outcome("\x1bc", "\x1bc", "contains '\x1bc'", said, True)
    assert "\x1b" not in "".join(triton_verify.table([outcome]))


BROKEN = {
    "in the middle of a body": (b"Content-Length: 500\r\n\r\n{", "broke off"),
    "in the middle of a stream": (b"Transfer-Encoding: chunked\r\n\r\n40\r\ndata: {", "broke off"),
    "before its head": (b"", "no answer"),
    "never, and says no more": (b"Content-Length: 500\r\n\r\n{", "says nothing more"),
}


@contextlib.contextmanager
def answering(raw: bytes, stays: bool = False) -> Iterator[str]:
    """The URL of a server that gives everybody the same answer, and then ends the connection unless it *stays*."""
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = listener.accept()
                connection.recv(65536)
                connection.sendall(raw)
                if stays:
                    kept.append(connection)
                else:
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("body", ["[]", "null", "<html>a page of a proxy</html>", "{}"])
@pytest.mark.parametrize("api", ["triton", "llmapi", "openai"])
def test_what_is_no_server_of_models_fails_its_checks(body: str, api: str) -> None:
    pytest.importorskip("openai")
    kind = "text/html" if "<" in body else "application/json"
    raw = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with answering(raw.encode()) as url:
        target = triton_verify.Target(url, url, gateway_url=url, gateway_model="m", api=api, timeout=2)
        outcomes = triton_verify_by_api.verification_of(target).run()
    assert (outcomes[0].name, outcomes[-1].name) == ("readiness", "chat completion")
    assert outcomes[0].ok is False and outcomes[-1].ok is False


@pytest.mark.parametrize("when", BROKEN)
@pytest.mark.parametrize("api", ["triton", "llmapi", "openai"])
def test_of_a_server_that_breaks_off_it_is_said_so(when: str, api: str) -> None:
    head, told = BROKEN[when]
    raw = b"HTTP/1.1 200 OK\r\n" + head if head else b"what is no HTTP\r\n\r\n"
    with answering(raw, stays="never" in when) as url:
        verification = triton_verify_by_api.verification_of(triton_verify.Target(url, api=api, timeout=0.5))
        verification._streams = True
        with pytest.raises(FleetError, match=told):
            verification.client.generate("m", {"text_input": "x", "max_tokens": 1})
        assert not any(outcome.ok for outcome in verification.run())
