# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that mean something to a shell, systemd, YAML, Jinja, a path or a parser, and what must not become of them."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet_keys import CONTAINER_KEYS

HOSTILE: list[Any] = [
    # what a shell, systemd, YAML, Jinja or a path would act on
    "", " ", "a b", " a ", "a;reboot", ";", "$(reboot)", "${HOME}", "$HOME", "`id`", "a&&b", "a|b", "a>b", "*", "?",
    "..", "../../etc", "/", "/a/../../b", "//", "/dev/../etc", "a:b", "/a:/b", "a,b", "a=b", "-rf", "--help", "~",
    "~root/x", "%n", "%", "%%", "\\", "a\\", "'", '"', "a\"b'c", "#", "a # b", "[", "{",
    "!!python/object:os.system", "&a", "*a",
    "{{ lookup('pipe','id') }}", "{% raw %}", "{#",
    # lines and characters that a terminal or a parser acts on
    "a\nExecStart=/bin/sh", "a\r\nb", "a\rExecStart=/bin/sh", "a\x00b", "\x00", "a\x1b[2Jb", "a\tb", "\u2028", "a\x85b",
    "\u202eabc", "\ud800", "\ufeffa", "é", "日本", "\U0001d4b3", "a" * 5000, "a b " * 2000,
    # absurd numbers and other types
    "5", 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 1.5, float("nan"), float("inf"), -float("inf"), "1e999", "0x10",
    "\u0661", True, False, None, [], {}, [[]], [None], [""], [{}], {"a": 1}, {"": ""}, {None: 1}, {1: 2},
    {"a": {"b": []}},
    ["a\nb"], {"a": "b\nc"}, {"a\nb": "c"}, ["a", 1, None], b"bytes", (1, 2), "yes", "null",
]  # fmt: skip

KEYS = {
    *CONTAINER_KEYS, "Description", "Wants", "Requires", "After", "StartLimitIntervalSec", "Restart", "RestartSec",
    "RestartSteps", "RestartMaxDelaySec", "TimeoutStopSec", "TimeoutStartSec", "ExecStop", "ExecStopPost", "ExecStart",
    "ExecStartPost", "WantedBy", "Type", "NotifyAccess", "Delegate", "KillMode", "SyslogIdentifier", "Environment",
    "RequiresMountsFor",
}  # fmt: skip
ONCE = ("ExecStart", "ExecStop", "Exec", "Image", "ContainerName", "User")


# What a shell runs: every value that was given stands in quotes, or has a form that means nothing to it.
HOST = r"https?://[\w.:\[\]]+"
PROBE = re.compile(
    rf"Health(Startup)?Cmd=(url={HOST} metrics_url={HOST} body='[^']*' token_timeout=\d+ "
    r"hang_timeout=\d+ retries=\d+ sh /etc/trtllm/triton/[0-9a-f]+/probe.sh (start|steady)( [\w.-]+)+"
    rf"|python3 -I -S /opt/gateway/app/openai_gateway/probe.py '{HOST}/health/ready\?require=any&drained=enough')"
)


def assert_nothing_came_in(text: str, where: str) -> None:
    """No line of a unit that we did not write: systemd ends one at a carriage return and a NUL too."""
    keys = []
    for line in re.split(r"[\n\r\0]", text):
        if line.startswith("Health") and "Cmd=" in line:
            assert PROBE.fullmatch(line), f"{where}: the probe is a shell's command: {line!r}"
        if line and not line.startswith(("#", "[")):
            keys.append(line.partition("=")[0])
            assert keys[-1] in KEYS and "=" in line, f"{where}: {line!r}"
    service = "ExecStart" in keys  # below podman 4.4; podman's own stop is a second one there
    for key in ONCE:
        assert keys.count(key) <= (2 if service and key == "ExecStop" else 1), f"{where}: {key} is there twice"
