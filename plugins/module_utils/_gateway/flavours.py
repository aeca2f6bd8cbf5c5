# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fronts that can stand behind the role openai_gateway, and what each of them can do: one table, from which come
the role's refusals and the matrix in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._base.errors import FleetError, nearest
from .._base.names import show

GATEWAY, OPENAI_TRTLLM, TRITON_FRONTEND = "gateway", "openai_trtllm", "triton_frontend"
NO, YES = "no", "yes"
CARGO_CHEF = "0.1.67"  # which Rust 1.74 compiles
# In Triton's images.
FRONTEND = "/opt/tritonserver/python/openai/openai_frontend/main.py"


@dataclass(frozen=True)
class Flavour:
    """One front.

    *steps*: what the names of its task files begin with. *check*: a command that succeeds in an image that has it.
    *key_variable*: the environment variable that it takes its key from. *source*: what an image is built from, the
    file, a line of it that is built by a fixed version, what its list of ignored files must not have, and the git trees
    that belong into one directory.
    """

    name: str
    title: str
    steps: str = "flavour_"
    stop_signal: str = "SIGTERM"
    check: Sequence[str] = ()
    key_variable: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    built: bool = False  # on hosts, too


FLAVOURS: Mapping[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour(GATEWAY, "the collection's own", steps="", built=True),
        Flavour(
            OPENAI_TRTLLM,
            "openai_trtllm",
            # It takes SIGINT alone as a reason to finish its requests.
            stop_signal="SIGINT",
            check=("/app/openai_trtllm", "--help"),
            key_variable="OPENAI_TRTLLM_API_KEY",
            built=True,
            source={
                "containerfile": "Dockerfile",
                # It installs the newest cargo-chef, whose lock file the cargo of its Rust 1.74 cannot read any more.
                "pin": {
                    "version": CARGO_CHEF,
                    "line": "cargo install cargo-chef --locked",
                    "pinned": f"cargo install cargo-chef --version {CARGO_CHEF} --locked",
                },
                # It leaves out its own lock file, and the newest crates do not compile with Rust 1.74.
                "ignored": {"file": ".dockerignore", "but": "Cargo.lock"},
                "trees": [
                    {
                        "name": "openai_trtllm",
                        "path": ".",
                        "url": "https://github.com/npuichigo/openai_trtllm.git",
                        "commit": "bfe9ae255a6b1c95fa42130a82856fb67e4d803b",
                    },
                    {
                        "name": "triton_common",
                        "path": "triton_common",
                        "url": "https://github.com/triton-inference-server/common.git",
                        "commit": "cf617c93c75d8e03da962115a2471e4b89062aae",
                    },
                ],
            },
        ),
        Flavour(
            TRITON_FRONTEND,
            "Triton's own",
            check=(
                "python3",
                "-c",
                f"import os, importlib.util as u, sys; sys.exit(not (os.path.exists({FRONTEND!r})"
                " and u.find_spec('tritonserver') and u.find_spec('fastapi')))",
            ),
        ),
    )
}


@dataclass(frozen=True)
class Ability:
    """A row of the matrix: *cells* in the order of FLAVOURS.

    *options* of the role ask for it, each with the value that does not; so do *of_model* of a model. Where a cell
    begins with "no", they are refused.
    """

    what: str
    cells: tuple[str, str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    of_model: tuple[str, ...] = ()

    def can(self, flavour: str) -> bool:
        """Whether *flavour* can do it."""
        cell = self.cells[list(FLAVOURS).index(flavour)]
        return cell.split(",")[0].split(":")[0] != NO

    def able(self) -> list[str]:
        """The flavours that can."""
        return [name for name in FLAVOURS if self.can(name)]


ABILITIES: Sequence[Ability] = (
    Ability("runs", ("beside Triton, or on another host", "beside Triton, or on another host", "as the Triton server")),
    Ability("asks Triton", ("HTTP", "gRPC", "in its own process")),
    Ability("fronts `trtllm-serve` and the LLM API in Triton, also beside engines under one name", (YES, NO, NO)),
    Ability("`/v1/completions`, `/v1/chat/completions`, streamed too", (YES, YES, YES)),
    Ability("`/v1/models`", (YES, NO, YES)),
    Ability("`/v1/responses`, `/v1/messages`, `/tokenize`", (YES, NO, NO)),
    Ability("a model's name", ("of your choice", "Triton's, as `tensorrt_llm_bls`", "Triton's, as `tensorrt_llm_bls`")),
    Ability("several models", (YES, "no: those of one repository", "no: those of one repository")),
    Ability("several replicas, draining one of them", (YES, NO, NO)),
    Ability("a share of the requests for each replica", (YES, NO, NO), of_model=("weights",)),
    Ability("replicas by prefix", (YES, NO, NO), {"prefix_affinity": None}, ("prefix_affinity",)),
    Ability("the checkpoint's chat template", (YES, NO, YES)),
    Ability("another chat template", (YES, "no: a history template", "from Triton 25.05"), of_model=("chat_template",)),
    Ability("a history template (Liquid)", (NO, YES, NO), {"history_template": None}),
    Ability("tools", (YES, NO, "Llama 3 and Mistral, from Triton 25.05"), of_model=("tool_call_parser",)),
    Ability("bound answers (`response_format`)", (YES, "no: ignored", "no: for tools alone")),
    Ability("`logprobs`", (YES, "no: ignored", "no: refused")),
    Ability("`n`, `best_of`", (YES, "no: `n` is the width of a beam", "no: refused")),
    Ability("`logit_bias`, `frequency_penalty`", (YES, "no: ignored", "the penalty")),
    Ability("`seed`", (YES, "up to TensorRT-LLM 0.19.0: an error from 0.20.0 on", YES)),
    Ability("`stop`", (YES, "as a list alone; `</s>` where none is given", YES)),
    Ability("`usage`", (YES, "always 0", "from Triton 25.08")),
    Ability("`finish_reason`", (YES, "always `stop`", "always `stop`, also for an answer that was cut")),
    Ability("errors in OpenAI's shape", (YES, "no: 500 and a text", "partly")),
    Ability(
        "tokens where a client asks for no number",
        (YES, "no: always 16", "from Triton 25.08, else 16"),
        of_model=("default_max_tokens",),
    ),
    Ability(
        "API keys",
        ("any number", "one", "no: its own are on its command line"),
        {"api_keys": []},
    ),
    Ability("limits of each client", (YES, NO, NO), {"clients": []}),
    Ability("TLS", (YES, NO, NO), {"tls_certificate": None, "tls_key": None}),
    Ability("processes for more than one core", (YES, "no: it uses all", NO), {"workers": 1}),
    Ability("a bounded queue", (YES, NO, NO), {"max_requests": None, "max_queued": 100}),
    Ability("a time limit for slow senders", (YES, NO, NO), {"read_timeout": 60}),
    Ability("a time limit for a silent Triton", (YES, NO, NO), {"request_timeout": 600, "connect_timeout": 5}),
    Ability(
        "a limit for the size of a request",
        (YES, "no: 2 MiB", "no: 64 MiB, from Triton 26.06"),
        {"max_body_bytes": 8388608},
    ),
    Ability("web pages of other origins", (YES, NO, "no: localhost alone"), {"cors_origins": []}),
    Ability("metrics", (YES, "no: OpenTelemetry traces", "Triton's")),
    Ability("running requests finish when it stops", (YES, "yes, on SIGINT", YES)),
    Ability("Triton's gRPC address", (NO, YES, NO), {"grpc_url": None}),
    Ability("a model repository of its own", (NO, NO, YES), {"frontend": {}}),
)


def flavour_of(name: str) -> Flavour:
    """The flavour called *name*."""
    if name not in FLAVOURS:
        raise FleetError(
            f"openai_gateway_flavour is {show(name)}{nearest(name, FLAVOURS)}; it is one of {', '.join(FLAVOURS)}."
        )
    return FLAVOURS[name]


def refusals(flavour: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each thing that *flavour* cannot do."""
    for ability in ABILITIES:
        if ability.can(flavour):
            continue
        for option, unasked in ability.options.items():
            if settings.get(option) not in (unasked, None, [], {}):
                yield _sentence(f"openai_gateway_{option} is set", flavour, ability)
        for model in settings.get("models") or []:
            for option in ability.of_model:
                if model.get(option) is not None:
                    yield _sentence(f"The model {show(model['name'])} has {option}", flavour, ability)
    if settings.get("image_source") == "build" and not FLAVOURS[flavour].built:
        built = " or ".join(name for name, one in FLAVOURS.items() if one.built)
        yield (
            f"openai_gateway_image_source is build, but the flavour {flavour} is not built on hosts; take pull, "
            f"archive or present, or set openai_gateway_flavour: {built}."
        )
    if flavour != GATEWAY:
        yield from _one_of_each(flavour, settings)


def _one_of_each(flavour: str, settings: Mapping[str, Any]) -> Iterator[str]:
    models = settings.get("models") or []
    urls = [url for model in models for url in model.get("urls") or []]
    counts = (("openai_gateway_models", "model", models), ("openai_gateway_models[].urls", "replica", urls))
    for option, what, found in counts:
        if len(found) != 1:
            yield _one(option, what, len(found), flavour)
    keys = settings.get("api_keys") or []
    if flavour == OPENAI_TRTLLM and len(keys) > 1:
        yield _one("openai_gateway_api_keys", "key", len(keys), flavour)


def _one(option: str, what: str, count: int, flavour: str) -> str:
    return (
        f"{option} has {count} elements, but the flavour {flavour} takes exactly one {what}; give one, or set "
        f"openai_gateway_flavour: {GATEWAY}."
    )


def _sentence(given: str, flavour: str, ability: Ability) -> str:
    able = " or ".join(ability.able())
    return (
        f"{given}, but the flavour {flavour} cannot do that ({ability.what}); leave it out, or set "
        f"openai_gateway_flavour: {able}."
    )


def matrix() -> list[list[str]]:
    """The table for the documentation, its head first."""
    head = ["", *(f"`{flavour.name}`" for flavour in FLAVOURS.values())]
    return [head, *([ability.what, *ability.cells] for ability in ABILITIES)]
