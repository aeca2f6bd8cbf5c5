# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running OpenAI gateway says of its replicas."""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from .._base.errors import FleetError
from .._base.names import show
from .._base.urls import parts_of

TIMEOUT = 5.0  # seconds; the answer needs no replica
# Beside the refusal where the gateway sends nothing to the replicas in any case, or never heard of draining.
CANNOT_DRAIN = {"can_drain": False}
URL = re.compile(r"https?://[^\s/?#]+")


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica, over all workers of the gateway."""

    url: str
    models: tuple[str, ...]
    outstanding: int
    draining: bool
    resting: bool


def check_url(url: str, what: str) -> str:
    """*url* as the gateway names it, where it is the address of a server; *what* is the option that gave it."""
    if not URL.fullmatch(url.rstrip("/")) or parts_of(url) is None:
        raise FleetError(f"{what} is {show(url)}; it takes an address such as http://127.0.0.1:8000.")
    return url.rstrip("/")


class GatewayStatus:
    """Asks one gateway."""

    def __init__(self, url: str, tls_verify: bool = True) -> None:
        self._url = check_url(url, "gateway_url")
        context = ssl.create_default_context()
        if not tls_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        # A gateway of the host is never behind the proxy that the environment names.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def replicas(self) -> dict[str, ReplicaStatus]:
        """Every replica by its address; raises `FleetError` where the gateway does not tell."""
        try:
            with self._opener.open(f"{self._url}/health/replicas", timeout=TIMEOUT) as answer:
                found: Any = json.load(answer)
            return {
                one["url"]: ReplicaStatus(
                    one["url"], tuple(one["models"]), int(one["outstanding"]), one["draining"], one["resting"]
                )
                for one in found["replicas"]
            }
        except urllib.error.HTTPError as error:
            older = error.code == 404
            raise self._silent(f"it answers {error.code}", "install a newer image of it", older) from None
        except (ValueError, KeyError, TypeError):
            raise self._silent("its answer is not a gateway's", "correct gateway_url") from None
        except urllib.error.URLError as error:
            down = isinstance(error.reason, ConnectionRefusedError)
            raise self._silent(str(getattr(error.reason, "strerror", None) or error.reason), cannot=down) from None
        except OSError as error:
            raise self._silent(error.strerror or str(error) or type(error).__name__) from None

    def _silent(self, why: str, remedy: str = "start it, or correct gateway_url", cannot: bool = False) -> FleetError:
        return FleetError(
            f"The gateway {self._url} does not say what its replicas work on ({why}); {remedy}.",
            CANNOT_DRAIN if cannot else None,
        )
