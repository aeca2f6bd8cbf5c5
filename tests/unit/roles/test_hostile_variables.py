# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a role's variable is set to: it is refused in one sentence, or stands in every file as it was written.

Every option of every role's argument specs is given every hostile value. What is taken is rendered, with the role's own
templates and variables, into files and units, which are parsed again: they must hold the same as with a harmless value,
but for that value.
"""

from __future__ import annotations

import configparser
import contextlib
import copy
import importlib
import itertools
import pkgutil
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest
import tomllib
import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.trtllm.fleet.plugins import filter as collection_filters
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import UNSHOWN, FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import render
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import triton_services
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _role_values
from fake_host import FakeHost
from unit.hostile import HOSTILE, assert_nothing_came_in

pytestmark = pytest.mark.slow

Key = tuple[Any, ...]
ROLES = Path(__file__).resolve().parents[3] / "roles"
LOADER = DataLoader()
FALSY = ("", None, [], {}, False, 0)
# Judged as a whole by the plan: tests/unit/plugins/test_hostile_descriptions.py.
DESCRIPTION = "fleet"


# What a file holds, by where it is written.


def _unit(text: str) -> Any:
    """Sections of keys, as systemd reads them; words of a command."""
    found: dict[str, list[Any]] = {}
    for line in re.split(r"[\n\r\0]", text):
        if line.startswith("["):
            section = found.setdefault(line, [])
        elif line and not line.startswith("#"):
            key, sign, value = line.partition("=")
            assert sign, line
            section.append([key, shlex.split(value.replace("%%", "%")) if key.startswith("Exec") else value])
            assert not re.search(r"%[^%]", value.replace("%%", "")), f"a specifier: {line!r}"
    return found


def _preferences(text: str) -> Any:
    """Records of fields, as apt reads them."""
    records = []
    for record in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n", "", text)):
        fields = [line.partition(": ")[::2] for line in record.strip().splitlines()]
        assert all(name in ("Package", "Pin", "Pin-Priority") for name, _ in fields), record
        records.append([[name, value.split()] for name, value in fields])
    return records


def _apt_source(text: str) -> Any:
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [line.split() for line in lines if line]
    assert all(len(words) == 4 and words[0] == "deb" and words[3] == "/" for words in found), text
    return found


def _ini(text: str) -> Any:
    parser = configparser.RawConfigParser(strict=True, comment_prefixes=("#",), delimiters=("=",))
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def _git(text: str) -> Any:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(
            ["git", "config", "--file", file.name, "--list", "-z"], capture_output=True, text=True, check=True
        )
    return [entry.partition("\n")[::2] for entry in done.stdout.split("\0") if entry]


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "containers.conf.j2": tomllib.loads,
    "registries.conf.j2": tomllib.loads,
    "cdi.service.j2": _unit,
    "preferences.j2": _preferences,
    "repository_apt.j2": _apt_source,
    "repository_dnf.j2": _ini,
    "module.j2": _ini,
    "openai-gateway.yml.j2": yaml.safe_load,
    "gitconfig.j2": _git,
    "nouveau.j2": str.splitlines,
    "unattended.j2": str.splitlines,
}


# The roles' variables.


def options(spec: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Where each option stands; elements of a list are looked for in its first."""
    for name, about in spec.items():
        yield (*at, name), about
        if about.get("options"):
            yield from options(about["options"], (*at, name, *([0] if about["type"] == "list" else [])))


VARIABLES = [
    (role, key, about)
    for role in _role_values.roles()
    if role != DESCRIPTION
    for key, about in options(_role_values.options_of(role))
]
MODEL = {"name": "m", "entry_model": "ensemble", "urls": ["http://127.0.0.1:8000"], "tokenizer_dir": "/srv/m"}
REPLICA = {
    "name": "m-0", "model": "m", "repository_dir": "/r", "engine_dirs": ["/e"], "gpus": [0], "http_port": 8000,
    "grpc_port": 8001, "metrics_port": 8002, "entry_models": ["ensemble"], "probe_models": ["ensemble"],
    "image": "sha256:" + "1" * 64, "release": LAST, "mode": "leader", "world_size": 1,
}  # fmt: skip
RIGHT: dict[str, Any] = {
    "openai_gateway_models": [MODEL],
    "openai_gateway_release": LAST,
    "openai_gateway_checkpoints": {},
    "triton_image_name": "registry.example/triton:1",
    "triton_image_release": LAST,
    "triton_image_mirrors": [{"location": "mirror.example"}],
    "triton_image_proxy": {"https_proxy": "http://proxy.example:1"},
    "triton_image_backend": {"mirrors": {"https://example/": "/srv/git/"}},
    "triton_replicas": [REPLICA],
    "triton_release": LAST,
    "model_repository_release": LAST,
    "podman_packages": ["podman"],
    "gpu_host_repository_id": "id",
    "gpu_host_repository_title": "title",
    "gpu_host_repository_url": "https://repository.example",
    "gpu_host_repository_key": "https://repository.example/key",
    "gpu_host_repository_fingerprints": ["0" * 40],
    "gpu_host_repository_checks": {"gpgcheck": True},
    "gpu_host_pin_id": "id",
    "gpu_host_pin_title": "title",
}


def given(role: str, key: Key, value: Any) -> dict[str, Any]:
    """Right variables of *role*, but for *value* at *key*."""
    known = _role_values.options_of(role)
    whole: Any = {name: copy.deepcopy(right) for name, right in RIGHT.items() if name in known}
    node = whole
    for one, following in itertools.pairwise(key):
        if isinstance(one, str):
            node = node.setdefault(one, [] if isinstance(following, int) else {})
        else:
            node.extend({} for _missing in range(one + 1 - len(node)))
            node = node[one]
    node[key[-1]] = value
    return dict(whole)


def texts(role: str) -> dict[str, Any]:
    """The role's defaults and variables, with their templates."""
    found: dict[str, Any] = {}
    for path in (ROLES / role / "defaults" / "main.yml", *sorted((ROLES / role / "vars").glob("*.yml"))):
        if path.is_file():
            found |= LOADER.load_from_file(str(path), trusted_as_template=True) or {}
    return found


def of_the_host(directory: Path, system: str) -> dict[str, Any]:
    seen = facts.gather(FakeHost(directory / system, system).recorded("hgx-h200").system, units=[])
    seen["units"] = {name: {"exists": False, "active": False, "enabled": False} for name in facts.UNITS}
    return {
        "ansible_managed": "Ansible managed",
        "ansible_check_mode": False,
        "inventory_hostname": "h1",
        "ansible_host": "10.0.0.1",
        "groups": {"all": ["h1"]},
        "gpu_host": seen,
        "gpu_driver_chosen": "580.95.05",
        "__gpu_driver_target": "580.95.05",
        "__container_toolkit_installed": "1.18.1",
        "__openai_gateway_digests": {},
        "__openai_gateway_context": {},
        "__openai_gateway_config": "the file",
        "__openai_gateway_fixed": "the file",
        "__openai_gateway_probe_text": "probe",
    }


def included(role: str) -> dict[str, Any]:
    """What the role tells gpu_host of its repository and its pins."""
    found: dict[str, Any] = {}
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in LOADER.load_from_file(str(path), trusted_as_template=True):
            inner = task.get("ansible.builtin.include_role", {}).get("tasks_from", "")
            if inner in ("repository.yml", "pin.yml"):
                found |= task.get("vars", {})
    return found


def filters() -> dict[str, Any]:
    """The collection's filters, by their full names."""
    found = {}
    for module in pkgutil.iter_modules(collection_filters.__path__):
        loaded = importlib.import_module(f"{collection_filters.__name__}.{module.name}").FilterModule().filters()
        found |= {f"trtllm.fleet.{name}": work for name, work in loaded.items()}
    return found


# Templates of the other package manager.
OF_OTHERS = {
    "debian-13": ("module.j2", "repository_dnf.j2"),
    "rhel-8": ("preferences.j2", "repository_apt.j2", "unattended.j2"),
}


class Rendering:
    """The files that a role would write, and the units."""

    def __init__(self, role: str, directory: Path, system: str) -> None:
        self.role = role
        shared = {} if role == "gpu_host" else texts("gpu_host")
        self.variables = {**shared, **texts(role), **included(role), **of_the_host(directory, system)}
        managers = [] if role not in ("container_toolkit", "gpu_driver", "gpu_host") else ["gpu_host"]
        self.templates = {
            f"{one}/{path.name}": trust_as_template(path.read_text(encoding="utf-8"))
            for one in (role, *managers)
            for path in sorted((ROLES / one / "templates").glob("*.j2"))
            if path.name not in OF_OTHERS[system]
        }
        if role == "openai_gateway":
            self.templates["unit"] = "{{ __openai_gateway_described }}"
        if role == "triton":
            self.templates["unit"] = "{{ [triton_replicas, __triton_settings] }}"
            self.variables["__triton_settings"]["scripts"] = {
                "run.sh": "",
                "probe.sh": "",
                "stop.py": "",
                "gang.py": "",
            }
        self.templates = {name: trust_as_template(text) for name, text in self.templates.items()}
        self.templar = Templar(LOADER, variables={})
        # A filter of the collection is found by Ansible's own import system, which tests do without.
        self.templar._engine.environment.filters.update(filters())
        self.mentioned = {name: self._mentioned(text) for name, text in self.templates.items()}

    def _mentioned(self, text: str) -> set[str]:
        """All variables that a template depends on, through others too."""
        found: set[str] = set()
        left = [text]
        while left:
            names = set(re.findall(r"\w+", left.pop())) - found
            found |= names
            left += [str(self.variables[name]) for name in names if name in self.variables]
        return found

    def files(self, variable: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the files that depend on *variable* hold."""
        self.templar.available_variables = {**self.variables, **values}
        if self.role == "gpu_driver":
            plan = self.templar.template(trust_as_template("{{ __gpu_driver_plan }}"))
            if plan["refusals"]:
                raise FleetError(". ".join(plan["refusals"]))
            self.templar.available_variables = {**self.variables, **values, "__gpu_driver_plan": plan}
        return {
            name: self._parsed(name.rpartition("/")[2], self.templar.template(text))
            for name, text in self.templates.items()
            if variable in self.mentioned[name]
        }

    def _parsed(self, name: str, rendered: Any) -> Any:
        if name != "unit":
            return PARSERS[name](str(rendered))
        if self.role == "triton":
            rendered = triton_services(*rendered)
        # The gateway's own unit needs Quadlet.
        for service, podman in itertools.product(rendered, ("5.4", "4.3")[: 1 if self.role == "openai_gateway" else 2]):
            text = render(service["name"], service["unit"], podman).text
            assert_nothing_came_in(text, service["name"])
        return []


def compared(mark: Any, marked: Any, value: Any, found: Any) -> None:
    """*found* is *marked* with *value* wherever *mark* stands."""
    if isinstance(marked, bool):
        assert isinstance(found, bool)
    elif isinstance(marked, Mapping):
        assert len(marked) == len(found), (marked, found)
        for (key, inner), (other, there) in zip(marked.items(), found.items()):
            compared(mark, key, value, other)
            compared(mark, inner, value, there)
    elif isinstance(marked, (list, tuple)):
        assert len(marked) == len(found), (marked, found)
        for inner, there in zip(marked, found):
            compared(mark, inner, value, there)
    else:
        assert str(marked).replace(str(mark), str(value)).strip() == str(found).strip(), (marked, found)


def refusal(role: str, values: Mapping[str, Any]) -> str:
    """Why it is refused, as the playbooks and then Ansible would say it; nothing where it is taken."""
    try:
        _role_values.check_given(values)
    except FleetError as error:
        return str(error)
    spec = {name: about for name, about in _role_values.options_of(role).items() if name in values}
    found = ArgumentSpecValidator(spec).validate(dict(values), validate_role_argument_spec=True).error_messages
    if found:
        return " ".join(found)
    try:
        _role_values.check_values(role, values)
    except FleetError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Rendering]]:
    directory = tmp_path_factory.mktemp("hosts")
    systems = {key: list(OF_OTHERS) for key in ("container_toolkit", "gpu_driver", "gpu_host")}
    return {
        role: [Rendering(role, directory / role, system) for system in systems.get(role, ["debian-13"])]
        for role in _role_values.roles()
        if role != DESCRIPTION
    }


def test_no_template_is_left_out(renderings: dict[str, list[Rendering]]) -> None:
    seen = {name for found in renderings.values() for one in found for name in one.templates}
    assert {f"{path.parents[1].name}/{path.name}" for path in ROLES.glob("*/templates/*.j2")} <= seen
    assert len(VARIABLES) * len(HOSTILE) > 10_000


def harmless(about: Mapping[str, Any], role: str, key: Key, affected: list[Rendering]) -> Any:
    """A value that is taken and stands out."""
    kind = about.get("type", "str")
    for mark in (4242, "mark1", "/mark1", "http://mark1/x", "mark1/x:1", ["mark1"], ["/mark1"], ["http://mark1"],
                 {"mark1": "mark1"}, "0.0.0.42", ["0" * 38 + "42"], 12.5, True):  # fmt: skip
        if kind in ("int", "float") and not isinstance(mark, (int, float)):
            continue
        if refusal(role, given(role, key, mark)):
            continue
        with contextlib.suppress(FleetError, AnsibleError):
            for one in affected:
                one.files(key[0], given(role, key, mark))
            return mark
    return None


def is_refusal(error: BaseException | None) -> bool:
    """Whether it is a sentence of ours, and not a mistake of a template or of a filter."""
    return isinstance(error, FleetError) or (error is not None and is_refusal(error.__cause__))


@pytest.mark.parametrize(
    ("role", "key", "about"), VARIABLES, ids=lambda part: str(part)[:60] if not isinstance(part, Mapping) else ""
)
def test_it_is_refused_in_a_sentence_or_rendered_as_it_is(
    role: str, key: Key, about: Mapping[str, Any], renderings: dict[str, list[Rendering]]
) -> None:
    affected = [one for one in renderings[role] if any(key[0] in names for names in one.mentioned.values())]
    mark = about["choices"][0] if about.get("choices") else harmless(about, role, key, affected)
    marked = {one: one.files(key[0], given(role, key, mark)) for one in affected if mark is not None}
    for value in HOSTILE:
        values = given(role, key, value)
        said = refusal(role, values)
        if said:
            assert not UNSHOWN.search(said.replace("\n", "")) and 10 < len(said) < 6000, said
            continue
        for one in affected:
            try:
                found = one.files(key[0], values)
            except (FleetError, AnsibleError) as error:
                assert is_refusal(error), error
                continue
            unsaid = str(value) == str(about.get("default"))
            if not unsaid and value not in FALSY and mark is not None and not isinstance(value, (list, dict, tuple)):
                compared(mark, marked[one], value, found)
