# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """How a registry is reached."""

    DOCUMENTATION = r"""
options:
  tls_verify:
    description:
      - Whether the registry's certificate is verified. V(false) also allows a registry without TLS.
    type: bool
    default: true
  authfile:
    description:
      - A file of the host with the registry's credentials, as C(podman login --authfile) writes it.
    type: path
  username:
    description:
      - Who asks the registry. At NGC this is V($oauthtoken).
    type: str
    default: ""
  password:
    description:
      - The password or key. It stands in no command line, log or unit; podman reads it from a file of mode 0600 in
        memory, which is removed when podman has ended.
    type: str
    default: ""
  mirrors:
    description:
      - Places that C(registries.conf) names for the registry of O(name), so that the digest of a tag is asked there
        first.
    type: list
    elements: dict
    default: []
    suboptions:
      location:
        description: What stands in place of the registry, with a path where there is one.
        type: str
        required: true
      insecure:
        description: Whether it has no TLS, or a certificate that is not trusted.
        type: bool
        default: false
  proxy:
    description:
      - Proxies for podman, as V(http_proxy), V(https_proxy) and V(no_proxy). A build has them too.
    type: dict
    default: {}
  retries:
    description:
      - How often a pull or push is tried again where that may help. A refusal of the registry is final.
    type: int
    default: 5
  retry_delay:
    description:
      - Seconds before the first further try. Each pause is twice as long as the one before it, up to 120 s.
    type: int
    default: 5
"""
