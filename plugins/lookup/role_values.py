# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role was given, judged before anything is done with it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: role_values
author: The trtllm.fleet authors (@trtllm-fleet)
version_added: "0.1.0"
short_description: The variables of a role of trtllm.fleet, judged
description:
  - Returns the values of the variables that a role's argument specs name, as far as they are given.
  - Fails with a sentence where one of them cannot stand in the files, units and commands that the role makes of it,
    such as a text of several lines, or an address with blanks in it. Types and choices are judged by Ansible itself.
options:
  _terms:
    description: Names of roles, without the collection's.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse what the role podman cannot be given
  ansible.builtin.assert:
    that: lookup('trtllm.fleet.role_values', 'podman') is mapping
"""

RETURN = r"""
_list:
  description: One dictionary for each role, from a variable to its value.
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import check_values, options_of, roles


class LookupModule(LookupBase):
    """The variables of the roles that the terms name."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        return [self._values(str(term), variables or {}) for term in terms]

    def _values(self, role: str, variables: Any) -> dict[str, Any]:
        if role not in roles():
            raise AnsibleLookupError(f"The collection has no role {role!r}; it has {', '.join(roles())}.")
        given = {name: variables[name] for name in options_of(role) if name in variables}
        values: dict[str, Any] = self._templar.template(given)
        try:
            check_values(role, values)
        except FleetError as error:
            raise AnsibleLookupError(str(error)) from error
        return values
