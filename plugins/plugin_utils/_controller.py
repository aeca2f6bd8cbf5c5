# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller knows of itself, and modules that ask a service of a host from there.

NVIDIA's and OpenAI's clients are installed on the controller. Triton listens on 127.0.0.1 of its host. What is asked
there goes through a tunnel of the ssh connection that Ansible uses for the host anyway; an address that is no loopback
address is asked directly.
"""

from __future__ import annotations

import contextlib
import getpass
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlunsplit

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import missing_client
from ansible_collections.trtllm.fleet.plugins.module_utils._base.urls import check_url, parts_of
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import is_loopback

READY_SECONDS = 20.0
# Given first, as ssh takes the first value that it sees: no shared connection, and no question.
TUNNEL_OPTIONS = [
    "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
    "-o", f"ConnectTimeout={int(READY_SECONDS)}", "-o", "LogLevel=ERROR",
]  # fmt: skip


def operator() -> str:
    """Who runs the playbook, and where: ``alice@deploy-01``."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def free_port() -> int:
    """A port of the controller that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tunnel_command(option: Any, forwards: Mapping[tuple[str, int], int]) -> list[str]:
    """The ssh that forwards ports, from the options of Ansible's ssh connection (*option* looks one up)."""
    command = [option("ssh_executable") or "ssh", *TUNNEL_OPTIONS]
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        command += shlex.split(option(name) or "")
    for name, flag in (("port", "-p"), ("remote_user", "-l"), ("private_key_file", "-i")):
        value = option(name)
        command += [flag, str(value)] if value else []
    if option("host_key_checking") is False:
        command += ["-o", "StrictHostKeyChecking=no"]
    for (host, port), local in forwards.items():
        command += ["-L", f"127.0.0.1:{local}:{host}:{port}"]
    return [*command, "-N", "-T", option("host")]


def wait_ready(process: subprocess.Popen[str], ports: list[int]) -> None:
    """Wait until ssh listens; raises when it ends first."""
    deadline = time.monotonic() + READY_SECONDS
    for port in ports:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.communicate()[1].strip().splitlines()
                reason = said[-1] if said else f"ssh gave no answer within {READY_SECONDS:.0f} s"
                raise AnsibleActionFail(
                    f"The ssh tunnel to the host did not come up: {reason}; see that the host answers, allow TCP "
                    "forwarding in its sshd, or ask an address that the controller reaches."
                )
            time.sleep(0.02)


@contextlib.contextmanager
def reachable(arguments: dict[str, Any], names: Sequence[str], option: Any) -> Iterator[dict[str, Any]]:
    """*arguments* with the URLs of *names* as the controller reaches them: those of a loopback address through the
    host's ssh, whose options *option* looks up; None where the host is not reached by ssh."""
    urls = {name: str(arguments[name]) for name in names if arguments.get(name)}
    asked = {name: check_url(url, name) for name, url in urls.items()}
    behind = {name: parts for name, parts in asked.items() if is_loopback(parts.hostname)}
    if not behind or option is None:
        yield arguments
        return
    forwards: dict[tuple[str, int], int] = {}
    for parts in behind.values():
        forwards.setdefault((parts.hostname or "127.0.0.1", parts.port or 80), free_port())
    command = tunnel_command(option, forwards)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_ready(process, list(forwards.values()))
        for name, parts in behind.items():
            local = forwards[(parts.hostname or "127.0.0.1", parts.port or 80)]
            arguments[name] = urlunsplit(parts._replace(netloc=f"127.0.0.1:{local}"))
        yield arguments
    finally:
        process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def as_asked(told: Any, given: Mapping[str, Any], here: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What was told, with the addresses that were *given* in place of tunnels' ends, which nobody else knows."""
    if isinstance(told, Mapping):
        return {key: as_asked(value, given, here, names) for key, value in told.items()}
    if isinstance(told, (list, tuple)):
        return [as_asked(value, given, here, names) for value in told]
    if not isinstance(told, str):
        return told
    for name in names:
        end, asked = (parts.netloc if (parts := parts_of(urls.get(name))) else "" for urls in (here, given))
        if end and end != asked:
            told = told.replace(end, asked)
    return told


def validated(module: ModuleType, args: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Arguments of *module* with its defaults, and the secrets among them."""
    spec = module.ARGUMENT_SPEC
    found = ArgumentSpecValidator(spec, required_if=module.REQUIRED_IF).validate(dict(args))
    if found.error_messages:
        raise AnsibleActionFail("; ".join(found.error_messages) + ".")
    parameters = dict(found.validated_parameters)
    secrets = (parameters.get(name) for name, option in spec.items() if option.get("no_log"))
    return parameters, {str(secret) for secret in secrets if secret}


class ControllerActionBase(ActionBase):  # type: ignore[misc]
    """Do the work of the module of the same name on the controller, with its URLs made reachable from there.

    It is done in Ansible's own process. *MODULE* has the module's ``ARGUMENT_SPEC``, ``REQUIRED_IF`` and ``work``.
    """

    _connection: Any
    MODULE: ModuleType
    URL_OPTIONS: tuple[str, ...]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        parameters, hidden = self._parameters()
        given = dict(parameters)
        try:
            with self._reachable(parameters) as reachable:
                result: dict[str, Any] = remove_values(self.MODULE.work(reachable), hidden)
        except ImportError as error:
            raise AnsibleActionFail(missing_client(error)) from error
        except (FleetError, OSError) as error:
            # Ansible shows what an error comes from too, and that may quote a secret.
            said = as_asked(sentence(error, "The controller"), given, parameters, self.URL_OPTIONS)
            raise AnsibleActionFail(remove_values(said, hidden)) from None
        told: dict[str, Any] = as_asked(result, given, parameters, self.URL_OPTIONS)
        return told

    def _parameters(self) -> tuple[dict[str, Any], set[str]]:
        """The task's arguments with the module's defaults, and the secrets among them."""
        return validated(self.MODULE, self._task.args)

    def _reachable(self, arguments: dict[str, Any]) -> contextlib.AbstractContextManager[dict[str, Any]]:
        option = self._connection.get_option if self._connection.transport == "ssh" else None
        return reachable(arguments, self.URL_OPTIONS, option)
