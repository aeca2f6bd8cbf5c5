# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in a description: it is refused in one sentence, or served as it was written. Never a traceback.

Every option of the description is given every value below, alone in a description that is right otherwise; what is
taken goes on into the units of its replicas.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import UNSHOWN, FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import render
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import triton_services
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _description
from unit.hostile import HOSTILE, assert_nothing_came_in

pytestmark = pytest.mark.slow

Path = tuple[Any, ...]
SPEC = _description.load_spec()
REPLICA = {"gpus": [0]}
RIGHT: dict[str, Any] = {
    "trtllm_release": LAST,
    "trtllm_models": [
        {
            "name": "m",
            "checkpoint": {"source": "path", "path": "/srv/m", "location": "host"},
            "engine": {},
            "repository": {"parameters": {}},
            "serving": {"replicas": [REPLICA]},
        },
        {"name": "n", "checkpoint": {"source": "path", "path": "/srv/n", "location": "host"}},
        {"name": "o", "checkpoint": {"source": "path", "path": "/srv/n", "location": "host"}},
    ],
}


def options(spec: dict[str, Any], at: Path = ()) -> Iterator[Path]:
    """Where each option stands; elements of a list are looked for in its first."""
    for name, option in spec.items():
        yield (*at, name)
        if "options" in option:
            yield from options(option["options"], (*at, name, *([0] if option["type"] == "list" else [])))


PATHS = [path for path in options(SPEC) if path[0] not in _description.ASKED]


def given(path: Path, value: Any) -> dict[str, Any]:
    """A right description of two models, but for *value* at *path*."""
    whole: Any = copy.deepcopy(RIGHT)
    node = whole
    for key, following in itertools.pairwise(path):
        if isinstance(key, str):
            node = node.setdefault(key, [] if isinstance(following, int) else {})
        else:
            node.extend({} for _missing in range(key + 1 - len(node)))
            node = node[key]
    node[path[-1]] = value
    return dict(whole)


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_description, "load_spec", lambda: copy.deepcopy(SPEC))


def test_the_description_is_right_without_them() -> None:
    assert len(_description.described(copy.deepcopy(RIGHT))["replicas"]) == 3


def test_every_option_is_given_every_value() -> None:
    assert len(PATHS) * len(HOSTILE) > 10_000
    for name in ("trtllm_root", "trtllm_models"):
        assert (name,) in PATHS
    assert ("trtllm_models", 0, "serving", "replicas", 0, "options", "environment") in PATHS


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:30])
def test_it_is_refused_in_a_sentence_or_served_as_it_is(value: Any) -> None:
    for path in PATHS:
        where = ".".join(str(part) for part in path)
        try:
            plan = _description.described(given(path, value))
        except (FleetError, OSError) as error:
            text = sentence(error)
            assert not UNSHOWN.search(text) and 10 < len(text) < 3000, f"{where}: {text!r}"
            continue
        try:
            services = triton_services([as_served(replica) for replica in plan["replicas"]], {"scripts": SCRIPTS})
            texts = [render(one["name"], one["unit"], podman).text for one in services for podman in ("5.4", "4.3")]
        except FleetError as error:
            pytest.fail(f"{where}: a plan was made that no host can serve: {error}")
        for text in texts:
            assert_nothing_came_in(text, where)


def repeated(depth: int) -> list[Any]:
    """What YAML aliases make of a few lines: ten times ten times ten..."""
    value: list[Any] = ["x"] * 10
    for _level in range(depth):
        value = [value] * 10
    return value


TOO_MUCH = {
    "text": "x" * 10_000_000, "list": ["x"] * 300_000, "keys": dict.fromkeys(map(str, range(100_000)), "x"),
    "aliases": repeated(8),
}  # fmt: skip


@pytest.mark.parametrize("value", TOO_MUCH.values(), ids=TOO_MUCH)
@pytest.mark.parametrize(
    "path", [path for path in PATHS if path[-1] in ("trtllm_models", "prompt", "load_models", "parameters", "name")]
)
def test_what_nobody_has_written_is_refused_before_it_is_worked_with(path: Path, value: Any) -> None:
    with pytest.raises(FleetError, match=rf"more than \d+ values or \d+ characters, in {path[0]} at least; look for"):
        _description.described(given(path, value))


SCRIPTS = {"run.sh": "", "probe.sh": "", "stop.py": ""}


def as_served(replica: dict[str, Any]) -> dict[str, Any]:
    """A replica of the plan with what the stages before it would have given."""
    made = {"image": "sha256:" + "1" * 64, "release": LAST, "repository_dir": "/r", "engine_dirs": ["/e"]}
    return {"mode": "leader", **made, **replica}
