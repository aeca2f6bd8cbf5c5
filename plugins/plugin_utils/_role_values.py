# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of the roles, judged by their argument specs before any of them reaches a file, a unit or a command.

Ansible itself judges types and choices. Here is what it cannot say: a text is one line, a number can be meant, a list
is no text that would be read letter by letter, and what stands in a file of the host, or among the words of a command,
has a form that means nothing else there.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Union

import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, nearest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import (
    HOST_NAME,
    IMAGE,
    NameRule,
    check_path,
    check_text,
    show,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.options import OPTIONS, check_options

ROLES = Path(__file__).resolve().parents[2] / "roles"
# No time, size, rate or number of ours is larger, and what is larger is read differently by every program.
LARGEST = 2**31 - 1
LARGEST_PORT = 65535
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster
PASSWORD = re.compile(r"//[^/\s@]*@")

Rule = Union[NameRule, Callable[[str, str], Any]]


def _rule(pattern: str, words: str) -> NameRule:
    return NameRule(re.compile(pattern, re.ASCII), words)


PACKAGE = _rule(r"[\w@/][\w.+:~^*/@=()-]*", "it takes the name of a package, as the package manager knows it")
VERSION = _rule(r"\w[\w.+:~-]*", "it takes a version, such as 1.18.1")
FINGERPRINT = _rule(r"[0-9A-Fa-f ]{16,80}", "it takes the hexadecimal digits of a key's fingerprint")
# Of an address all but what ends a word or begins a comment in the files of a package manager.
URL = _rule(
    r"[a-z][a-z0-9+.-]*:/[\w.~:/?@!$&()*+,;=%{}\[\]-]+",
    "it takes an address such as https://mirror.example/path, without blanks, quotes and '#'",
)
PROXY = _rule(URL.pattern.pattern + r"|[\w.-]+:[0-9]+", "it takes an address such as http://proxy.example:3128")
NO_PROXY = _rule(r"[\w.:/*,\[\] -]+", "it takes names, addresses and networks, with ',' between them")
ADDRESS = _rule(r"[0-9A-Za-z:][\w.:%-]*", "it takes an address, or the name of a host")
IMAGE_NAME = NameRule(
    IMAGE, "it takes an image as podman writes it, such as registry.example/triton:24.05, with a digest, or an ID"
)
IMAGE_PLACE = NameRule(IMAGE, "it takes a registry as podman writes it, such as mirror.example:5000/path")
GIT_PLACE = _rule(r"[\w/.~][\w./:@~+%?=,-]*", "it takes an address of git, without blanks and quotes")
GIT_VERSION = _rule(r"\w[\w./+-]*", "it takes a tag or a commit")
WORD = _rule(r"\w[\w.:=,/+-]*", "it takes one word of letters, digits and '.', ':', '=', ',', '/', '+', '-'")
BELOW = _rule(r"(?!.*\.\.(/|$))[\w.][\w./+@-]*", "it takes a path within the repository, without '..'")
PLAIN_PATH = _rule(
    r"(?!.*/\.\.(/|$))/[\w./+@=-]+",
    "it takes an absolute path of letters, digits and '.', '_', '/', '+', '@', '=', '-'",
)


def _free(value: str, what: str) -> None:
    """Several lines are what it takes."""


def _archive(value: str, what: str) -> None:
    if re.match(r"https?://", value):
        _check(value, what, URL)
    elif value.rstrip("/").endswith(".."):
        raise FleetError(f"{what} is {show(value)}; it takes the path or the address of a file.")


# By variable, and option of it, what a text must look like beyond being one line. An empty text means that nothing is
# given. The first that fits counts.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"\w+_packages", PACKAGE),
    (r"(gpu_driver|container_toolkit|podman_minimum)_version", VERSION),
    (r"gpu_driver_branch(es)?", VERSION),
    (r"\w+_fingerprints", FINGERPRINT),
    (r"\w+_(repository|epel)_key", _free),  # an address, a path or the armored key
    (r"(gpu_driver|container_toolkit|gpu_host)_(repository_root|repository_url|epel_url)", URL),
    (r"gpu_host_(repository_id|pin_id|pin_template)", HOST_NAME),
    (r"container_toolkit_cdi_file", PLAIN_PATH),
    (r"container_toolkit_probe_image|\w+_image_(name|base|push)|triton_image_push", IMAGE_NAME),
    (r"(engine|model_repository|triton)_image", IMAGE_NAME),
    (r"triton_image_mirrors\.location", IMAGE_PLACE),
    (r"triton_image_proxy\.https?_proxy", PROXY),
    (r"triton_image_proxy\.no_proxy", NO_PROXY),
    (r"triton_image_archive", _archive),
    (r"triton_image_backend\.(repository|mirrors)", GIT_PLACE),
    (r"triton_image_backend\.version", GIT_VERSION),
    (r"triton_image_backend\.containerfile", BELOW),
    (r"\w+_address", ADDRESS),
    (r"\w+_image_index", URL),
    (r"openai_gateway_models\.(tokenizer_dir|chat_template)", check_path),
    (r"openai_gateway_frontend\.(repository_dir|engine_dirs)", check_path),
    (r"openai_gateway_(history_template|root|checkpoint_dirs)", check_path),
    (r"openai_gateway_(grpc_url|models\.urls)", URL),
    (r"openai_gateway_frontend\.(shm_size|triton_version|gpus)", WORD),
    (
        r"openai_gateway_cors_origins",
        _rule(r"\*|[a-z][a-z0-9+.-]*://[\w.:\[\]-]+", "it takes an origin such as https://chat.example"),
    ),
    (r"openai_gateway_base_images", IMAGE_NAME),
    (r"openai_gateway_source", GIT_PLACE),
    (r"openai_gateway_source_dir", PLAIN_PATH),
    (r"checkpoint_network", WORD),
)

# Without EPEL where they are empty, though they have a default.
MAY_BE_EMPTY = ("gpu_driver_epel_url", "gpu_driver_epel_key")


@functools.cache
def options_of(role: str) -> Mapping[str, Any]:
    """The options of all entry points of *role*, together."""
    text = (ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    entries = yaml.load(text, Loader=LOADER)["argument_specs"].values()
    return MappingProxyType({name: about for entry in entries for name, about in entry["options"].items()})


def roles() -> list[str]:
    """The names of all roles."""
    return sorted(path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml"))


def check_given(variables: Mapping[str, Any]) -> None:
    """The same of all roles, for what *variables* say without a template: as early as can be, and without any cost.

    What a rollout is told is judged with it: site.yml has done other things before.
    """
    for role in roles():
        check_values(role, _plain(options_of(role), variables))
    check_options(_plain(OPTIONS, variables))


def _plain(names: Iterable[str], variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variables[name] for name in names if name in variables and _is_plain(variables[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(element) for element in value)
    return value is None or isinstance(value, (int, float, bytes))


def check_values(role: str, values: Mapping[str, Any]) -> None:
    """Refuse, with `FleetError`, what a variable of *role* cannot be; *values* by name of the variable."""
    _check_options(options_of(role), values)


def _check_options(spec: Mapping[str, Any], given: Mapping[str, Any], key: str = "", what: str = "") -> None:
    for option in given:
        if option not in spec:
            known = nearest(option, spec) or f"; it takes {', '.join(sorted(spec))}"
            raise FleetError(f"{what.rstrip('.')} has the unknown key {show(option)}{known}.")
    for option, about in spec.items():
        if option in given and given[option] is None and (about.get("required") or about.get("default")):
            raise FleetError(f"{what}{option} is empty; give {_article(about)}.")
        _judge(given.get(option), about, f"{key}{option}", f"{what}{option}")


def _judge(value: Any, about: Mapping[str, Any], key: str, what: str) -> None:
    kind = about.get("type", "str")
    if value is None:
        return
    if kind == "list":
        for number, element in enumerate(_listed(value, what)):
            if element is None:
                raise FleetError(f"{what}[{number}] is empty; leave it out.")
            # What is in a list of lists has no type of its own.
            inner = {**about, "type": about.get("elements", "str"), "elements": "raw"}
            _judge(element, inner, key, f"{what}[{number}]")
    elif kind == "dict":
        _judge_dict(value, about, key, what)
    elif kind in ("int", "float"):
        _check_number(value, kind, key, what)
    elif kind in ("str", "path") and not _is_text(value, key):
        raise FleetError(f"{what} is {show(value)}; give a text.")
    elif isinstance(value, (list, tuple)):
        for number, element in enumerate(value):
            _judge(element, about, key, f"{what}[{number}]")
    elif isinstance(value, Mapping):
        _judge_dict(value, about, key, what)
    elif isinstance(value, str) and value:
        _check_one(value, about, key, what)
    elif value == "" and _rule_of(key) and (about.get("required") or about.get("default")) and key not in MAY_BE_EMPTY:
        raise FleetError(f"{what} is empty; give a text.")


def _judge_dict(value: Any, about: Mapping[str, Any], key: str, what: str) -> None:
    if not isinstance(value, Mapping):
        raise FleetError(f"{what} is {show(value)}; give a dictionary.")
    if about.get("options"):
        _check_options(about["options"], value, f"{key}.", f"{what}.")
        return
    inner = {**about, "type": "raw"}
    for name, element in value.items():
        if not isinstance(name, str):
            raise FleetError(f"A key of {what} is {show(name)}; give a text.")
        check_text(name, f"A key of {what}")
        if key == "triton_image_backend.mirrors":  # both sides are addresses
            _check(name, f"A key of {what}", GIT_PLACE)
            _check(element if isinstance(element, str) else "", f"{what}.{name}", GIT_PLACE)
        _judge(element, inner, key, f"{what}.{name}")


def _article(about: Mapping[str, Any]) -> str:
    return {"list": "a list", "dict": "a dictionary", "int": "a number", "bool": "true or false"}.get(
        about.get("type", "str"), "a text"
    )


def _listed(value: Any, what: str) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        return value
    raise FleetError(f"{what} is {show(value)}; give a list.")


def _is_text(value: Any, key: str) -> bool:
    """A number is one where YAML makes numbers of versions, and where nothing hangs on the form."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value) and _rule_of(key) in (None, VERSION, WORD, GIT_VERSION)
    return not isinstance(value, (list, tuple, Mapping, bool, bytes))


def _rule_of(key: str) -> Rule | None:
    return next((rule for pattern, rule in RULES if re.fullmatch(pattern, key)), None)


def _check_one(value: str, about: Mapping[str, Any], key: str, what: str) -> None:
    rule = _rule_of(key)
    if rule is not _free:
        check_text(value, what, bool(about.get("no_log")))
    if rule is not None:
        _check(value, what, rule)


def _check(value: str, what: str, rule: Rule) -> None:
    if callable(rule):
        rule(value, what)
    elif not rule.pattern.fullmatch(value):
        raise FleetError(f"{what} is {show(PASSWORD.sub('//...@', value))}; {rule.words}.")


def _check_number(value: Any, kind: str, key: str, what: str) -> None:
    least, most = (1, LARGEST_PORT) if key.endswith("_port") else (0, LARGEST)
    form = r"\d{1,10}" if kind == "int" else r"\d{1,10}(\.\d{1,10})?"
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(form, text, re.ASCII) or not least <= float(text) <= most:
        words = "a whole number" if kind == "int" else "a number"
        raise FleetError(f"{what} is {show(value)}; give {words} from {least} to {most}.")
