#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The conformance suite of OpenAI's API (tests/conformance), against any server that says it speaks it.

tools/conformance.py setup                        the virtual environment with the clients
tools/conformance.py run --base-url http://gateway:3000 --model tiny-llama [--offers all] [-- pytest's own options]
tools/conformance.py fuzz --base-url ...          requests made from the server's own OpenAPI document: no 5xx
tools/conformance.py peers --triton http://...    the suite for the gateway and for LiteLLM before one Triton

Where a server wants a key, run takes it from OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import demo
from _peers import SUITE, litellm
from _stages import StageError, cache_dir, main_guard
from _venvs import environment

# What the gateway before a model without tools and without guided decoding offers.
OFFERS = "unguided,responses,messages,tokenize,extras,service,limits"
SCHEMA_EXAMPLES = 12  # of each endpoint
PEERS_PATIENCE = 10  # seconds that a check of a comparison may take
# What the suite's files are about, by what stands between test_ and .py.
SUBJECTS = {
    "chat": "chat", "completions": "completions", "errors": "what is refused, and how", "stops": "stop words",
    "probabilities": "probabilities of tokens", "tools": "tools", "bound_answers": "bound answers",
    "responses": "`/v1/responses`", "messages": "`/v1/messages`", "langchain": "LangChain's client",
    "http": "HTTP", "service": "models, tokens of a text, service",
}  # fmt: skip
Found = dict[str, Counter[str]]  # file of the suite -> passed, failed and skipped


def clients() -> Path:
    """The programs of the suite's environment."""
    return environment("conformance", SUITE / "requirements.txt")


def suite(options: argparse.Namespace, base_url: str, *more: str) -> list[str]:
    """The command of the suite against one server."""
    argv = [str(clients() / "python"), "-m", "pytest", "-q", "-c", str(SUITE / "pytest.ini"), f"--rootdir={SUITE}"]
    argv += [str(SUITE), f"--base-url={base_url}", f"--model={options.model}"]
    return [*argv, f"--offers={options.offers}", *more]


def run(options: argparse.Namespace) -> int:
    """Run the suite; its exit code is pytest's."""
    return subprocess.run(suite(options, options.base_url, *options.pytest), check=False).returncode


def fuzz(options: argparse.Namespace) -> int:
    """Let schemathesis make requests from the document that the server serves; only a 5xx is a failure."""
    argv = [str(clients() / "schemathesis"), "--no-color", "run", f"{options.base_url}/openapi.json"]
    argv += [f"--url={options.base_url}", "--checks=not_a_server_error", "--phases=examples,coverage,fuzzing"]
    argv += [f"--max-examples={SCHEMA_EXAMPLES}", f"--max-time={options.seconds}", "--seed=1", "--request-timeout=60"]
    argv += ["--suppress-health-check=all", "--generation-database=none"]
    return subprocess.run(argv, cwd=cache_dir(), check=False).returncode


def counted(options: argparse.Namespace, base_url: str, key: str | None = None) -> Found:
    """What the suite says of one server."""
    environ = {**os.environ, **({"OPENAI_API_KEY": key} if key else {})}
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        report = Path(scratch) / "report.xml"
        argv = suite(options, base_url, "--tb=no", f"--patience={PEERS_PATIENCE}", f"--junit-xml={report}")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ)
        if not report.exists():
            raise StageError(f"the suite did not run: {(done.stdout + done.stderr)[-500:]}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found: Found = {}
    for case in cases:
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        subject = case.attrib["classname"].rpartition(".")[2].removeprefix("test_")
        found.setdefault(subject, Counter())["failed" if outcome in ("failure", "error") else outcome] += 1
    return found


def comparison(servers: dict[str, Found]) -> str:
    """The checks that each of *servers* passes, by subject, as a table of Markdown."""
    subjects = [*SUBJECTS, *sorted({name for found in servers.values() for name in found}.difference(SUBJECTS))]
    lines = [f"| checks passed of | {' | '.join(servers)} |", "| --- |" + " --- |" * len(servers)]
    total = {server: sum(found.values(), Counter()) for server, found in servers.items()}
    for name, counts in [
        *((SUBJECTS.get(subject, subject), {s: found.get(subject, Counter()) for s, found in servers.items()})
          for subject in subjects),
        ("all", total),
    ]:  # fmt: skip
        cells = [f"{count['passed']} of {count['passed'] + count['failed']}" for count in counts.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    left_out = ", ".join(f"{count['skipped']} of {server}" for server, count in total.items())
    return "\n".join([*lines, "", f"Not asked, as not said to be offered: {left_out}."])


def peers(options: argparse.Namespace) -> int:
    """Print what the suite says of the gateway and of LiteLLM before the same Triton."""
    servers = {"gateway": counted(options, options.base_url)}
    with litellm(options.triton, options.model) as proxy:
        servers["LiteLLM"] = counted(options, proxy.url, proxy.key)
    print(comparison(servers))
    return 0


def setup(_options: argparse.Namespace) -> int:
    """Make the environment of the clients."""
    clients()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["setup", "run", "fuzz", "peers"])
    parser.add_argument("--base-url", default=demo.GATEWAY.removesuffix("/v1"), help="(default: the demo's gateway)")
    parser.add_argument("--triton", default=demo.GATEWAY.replace(":3000/v1", ":8000"), help="(default: the demo's)")
    parser.add_argument("--model", default=demo.MODEL, help="(default: %(default)s)")
    parser.add_argument("--offers", default=OFFERS, help="what the server is said to offer (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=40, help="of fuzzing (default: %(default)s)")
    given = sys.argv[1:]
    own, pytests = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    options = parser.parse_args(own)
    options.pytest = pytests
    what = {"setup": setup, "run": run, "fuzz": fuzz, "peers": peers}[options.what]
    return main_guard("conformance", lambda: what(options))


if __name__ == "__main__":
    sys.exit(main())
