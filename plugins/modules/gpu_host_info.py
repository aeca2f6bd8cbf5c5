#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: gpu_host_info
short_description: Tell everything about a host that decides whether it can serve models on its GPUs
version_added: "0.1.0"
description:
  - Looks at the PCI bus, the NVIDIA driver, CDI specifications, podman, the kernel, Secure Boot, control
    groups, SELinux,
    memory and disk in one remote call, and changes nothing.
  - Works on a host where nothing is installed yet; what is absent is reported as absent.
  - Needs no Python package on the host and never uses PyYAML, lspci or podman to read what the kernel
    and files say.
options:
  subsets:
    description:
      - What to ask commands for. What the kernel and plain files tell is always there.
      - V(gpus) runs C(nvidia-smi), V(podman) runs C(podman), V(packages) asks the package manager about
        O(packages)
        and V(units) asks systemd about O(units).
    type: list
    elements: str
    choices: [gpus, podman, packages, units]
    default: [gpus, podman, packages, units]
  packages:
    description:
      - Names of packages, with shell wildcards, of which the installed ones are listed.
      - The default is what the roles of this collection ask for, so that one look serves them all.
    type: list
    elements: str
    default:
      ["*nvidia*", "libcuda*", nvlsm, podman, crun, netavark, aardvark-dns, python3-apt, "*versionlock*"]
  units:
    description: systemd units of which the state is told.
    type: list
    elements: str
    default:
      - nvidia-persistenced.service
      - nvidia-fabricmanager.service
      - nvidia-imex.service
      - nvidia-cdi-refresh.service
      - nvidia-cdi-refresh.path
      - trtllm-cdi-refresh.service
  paths:
    description: Paths of which the free room is told. Of a path that does not exist yet, that of its
      nearest parent.
    type: list
    elements: path
    default: [/boot, /var/lib/trtllm, /var/lib/containers]
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
author:
  - The trtllm.fleet authors (@trtllm-fleet)
"""

EXAMPLES = r"""
- name: Look at the host
  trtllm.fleet.gpu_host_info:
    packages: ["*nvidia*", podman]
    units: [nvidia-persistenced.service]
  register: looked

- name: Stop where the driver was upgraded under a loaded module
  ansible.builtin.assert:
    that: not looked.host.reboot.required
    fail_msg: "{{ looked.host.reboot.reasons | join('; ') }}"
"""

RETURN = r"""
host:
  description: What was found.
  returned: success
  type: dict
  contains:
    root:
      description: Whether the module ran with root's rights, which the roles need.
      type: bool
    os:
      description: C(id), C(version) and C(name) from os-release.
      type: dict
      sample: {id: ubuntu, version: "24.04", name: Ubuntu 24.04.3 LTS}
    kernel:
      description:
        - C(release) and C(machine) of the running kernel; C(installed), the releases in /boot; C(next), the
          one that boots next; C(headers), those of the two whose headers are there; C(modules), whether the
          kernel can load modules; C(boot_id).
      type: dict
    secure_boot:
      description: V(enabled), V(disabled), V(unsupported) (the machine did not boot by UEFI) or
        V(unknown).
      type: str
    gpus:
      description:
        - One entry for each NVIDIA GPU, found on the PCI bus or named by nvidia-smi, in the order of
          nvidia-smi's index.
        - C(index), C(name), C(uuid), C(memory_mib), C(memory_free_mib) and C(persistence) need a working
          driver.
        - C(pci_address), C(pci_id), C(pci_driver), C(architecture) and C(open_modules) (V(no), V(yes) or
          V(only)) do not.
        - C(compute_capability) is nvidia-smi's, and before there is a driver the one that the PCI id
          stands for.
        - C(mig) has C(supported), C(enabled) and C(devices), each with C(index), C(profile) and C(uuid).
      type: list
      elements: dict
    pci_gpus:
      description: How many NVIDIA GPUs are on the PCI bus.
      type: int
    nvswitches:
      description: The NVSwitches on the PCI bus.
      type: list
      elements: dict
    fabric:
      description:
        - What joins the GPUs. V(nvswitch) needs the fabric manager; V(nvlink5) (HGX B200, B300) needs the
          NVLink subnet manager and ib_umad too; V(multinode) (GB200, GB300) needs IMEX; V(none) needs
          nothing.
      type: str
    driver:
      description:
        - C(version), the one in use, V(null) without a working driver; C(loaded) and C(flavor) (V(open),
          V(proprietary)) of the module in the kernel; C(userspace), the version of the installed
          libraries; C(nvml), V(ok), V(absent), V(no_driver), V(mismatch), V(no_gpu), V(failed) or
          V(not_asked), with C(nvml_message), what nvidia-smi said; C(nouveau), whether nouveau is loaded
          or drives a GPU; C(modules), which of the driver's modules lie ready for each kernel;
          C(devices), the device nodes.
      type: dict
    cdi:
      description:
        - C(specs), each with C(path), C(kind), C(devices), the C(driver) version whose libraries it mounts, and
          C(nodes), the device nodes of each device; C(devices), all qualified names; C(problems), each with
          C(kind) (V(stale_device), V(stale_file), V(duplicate), V(missing), V(gone), V(unreadable)), C(path) and
          C(message).
      type: dict
    rdma:
      description:
        - C(devices), the RDMA devices (InfiniBand, RoCE), each with C(name), C(pci_address), C(nodes), the device nodes
          through which programs use it, C(cdi), the names by which a CDI specification declares these, C(ports),
          C(interfaces) (its network interfaces) and C(numa_node); C(manager), the node of the connection manager, empty
          where there is none.
        - Each of the ports has C(port), C(state) (V(ACTIVE), V(DOWN), ...), C(link_layer) (V(InfiniBand) or
          V(Ethernet)) and C(rate).
      type: dict
    podman:
      description:
        - V(null) where it is not installed. Else C(version), C(cdi) and C(quadlet) (what it can do),
          C(runtime), C(network_backend), C(graph_root) and C(error), why podman does not
          answer; C(version) is empty where it does not even tell that.
      type: dict
    cgroups:
      description: C(version) of the mounted hierarchy, V(1) or V(2), and its C(controllers).
      type: dict
    selinux:
      description: C(mode), V(enforcing), V(permissive) or V(disabled), and the boolean
        C(container_use_devices).
      type: dict
    memory:
      description: C(total_bytes) and C(available_bytes).
      type: dict
    disk:
      description: For each of O(paths), C(total_bytes), C(free_bytes) and where it was measured.
      type: dict
    repositories:
      description: The package repositories that are configured, each with C(url) and the C(path) of its file.
      type: list
      elements: dict
    packages:
      description: For each installed package that matches O(packages), C(version), C(upstream) (without
        revision), C(held) and on systems with rpm C(epoch).
      type: dict
    units:
      description: For each of O(units), C(exists), C(active), C(enabled) and C(result), how its last run ended
        in systemd's words; V(exec-condition) for one that passed itself over.
      type: dict
    reboot:
      description: C(required), the C(reasons), and C(noted), whether a role left a note on the host.
      type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trtllm.fleet.plugins.module_utils._base.module import one_sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System


def main() -> None:
    """Look at the host and return what was found."""
    module = AnsibleModule(
        argument_spec={
            "subsets": {
                "type": "list",
                "elements": "str",
                "choices": list(facts.SUBSETS),
                "default": list(facts.SUBSETS),
            },
            "packages": {"type": "list", "elements": "str", "default": list(facts.PACKAGES)},
            "units": {"type": "list", "elements": "str", "default": list(facts.UNITS)},
            "paths": {
                "type": "list",
                "elements": "path",
                "default": list(facts.PATHS),
            },
        },
        supports_check_mode=True,
    )
    with one_sentence(module):
        host = facts.gather(
            System(),
            subsets=module.params["subsets"],
            packages=module.params["packages"],
            units=module.params["units"],
            paths=module.params["paths"],
        )
    module.exit_json(changed=False, host=host)


if __name__ == "__main__":
    main()
