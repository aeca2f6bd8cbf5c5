# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that is struck says, by the name of the row: a regular expression over its output with single blanks."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "podman: another file sets a runtime that is not there, before the run": 'default OCI runtime "runc" not found',
    "podman: settings unreadable: no TOML, before the run": "does not answer: Failed to obtain podman configuration",
    "podman: podman removed behind its package's back, before the run": "has no command podman, though its packages",
    "podman: podman hangs, before the run": "podman gave no answer within",
    "podman: runtime gone, before the run": 'default OCI runtime "crun" not found',
    "podman: storage damaged: its list of images cut short, before the run": "does not answer: .*images.json",
    "podman: module killed, while it gathers facts": "the module was killed on the host",
    "podman: host lost, while it gathers facts": "Make sure this host can be reached over ssh",
    "image: registry cuts each connection at its begin, in the pull": "podman cannot pull .*EOF",
    "checkpoint: module killed, while it takes what is sent": "the module was killed on the host",
    "tokenizer: module killed, while it is installed": "the module was killed on the host",
    "engine: module killed, while it waits for a build": "the module was killed on the host",
    "model_repository: module killed, while it renders": "the module was killed on the host",
    "triton: clock a day ahead, before the run": "changed=0",
    "triton: clock a day behind, before the run": "changed=0",
    "image: registry lies about bytes, in each pull": "Digest did not match, expected",
    "image: module killed, in the middle of the pull": "the module was killed on the host",
    "image: host rebooted, in the middle of the pull": "connection lost, the work goes on",
    "checkpoint: host lost, while it is sent": "Failed to connect to the host via ssh",
    "engine: container killed, in the middle of a build": "exit code 137.; the next run starts it",
    "engine: disk read-only, before the run": "/srv/scratch/engines: Read-only file system",
    "tokenizer: inodes gone, before the run": "No space left on device; make room there",
    "verify: replica stopped, before the run": "did not answer get_server_metadata",
    "verify: replica hangs, before the run": "does not answer as expected",
    "gpu_driver: module and dpkg killed, while apt installs": "the module was killed on the host",
    "tokenizer: disk full, before the run": "/srv/scratch/.*No space left on device; make room there",
    "image: what is known of images is a directory, before the run": "/.images.json: Is a directory",
    "image: registry refuses connections, before the run": "podman cannot pull .*EOF",
    "image: registry away, before the run": "podman cannot pull .*connection refused",
    "checkpoint: host rebooted, while it is sent": "Failed to connect to the host via ssh",
    "tokenizer: disk read-only, before the run": "/srv/scratch/tokenizers: Read-only file system",
    "gpu_driver: host rebooted, while apt installs": "Make sure this host can be reached over ssh",
    "engine: host rebooted, in the middle of a build": "The build of scratch is not there any more",
    "verify: gateway stopped, before the run": "the gateway at http://[0-9.:]+ refused: Connection error",
    "gpu_driver: repository away, before the run": "cannot read its package repositories; repair or remove",
    "triton: host lost, and back, while it serves": "Make sure this host can be reached over ssh",
    "checkpoint: disk full, before the run": "has no room for the .{1,20} of scratch",
    "gpu_driver: disk full, while apt fetches": r"You don't have enough free space.{0,100}(?= \(at ')",
    "verify: host lost, before the run": "the host did not answer",
    "rollout: module killed, while the unit is changed": "the module was killed on the host",
    "container_toolkit: a second specification of other hand, before the run": "both declare nvidia.com/gpu=0",
    "image: DNS gone, before the run": "podman cannot pull .*lookup registry.invalid",
    "checkpoint: inodes gone, before the run": "No space left on device; make room there",
    "gpu_driver: driver and library of two versions, before the run, without leave to reboot": (
        "needs a reboot: the loaded kernel module is 570.133.20, the installed driver 570.172.08"
    ),
    "gateway: another process has its port, before the run": "port 3000 of 0.0.0.0 .{1,30} is held by python3",
    "container_toolkit: disk read-only, before the run": "/etc/cdi/nvidia.yaml was not made: .*Read-only file system",
    "triton: unit replaced by a directory, before the run": "triton-tiny-llama-0.container: Is a directory",
    "container_toolkit: nvidia-ctk ends in the middle, before the run": (
        "/etc/cdi/nvidia.yaml was not made: .{1,200}a fatal signal was delivered"
    ),
    "gateway: module killed, while it is started": "the module was killed on the host",
    "triton: module killed, while the run starts it": "the module was killed on the host",
    "gpu_driver: nvidia-smi hangs, before the run": "nvidia-smi gave no answer within 60 s",
    "gateway: host rebooted, while it is started": "Make sure this host can be reached over ssh",
    "triton: host rebooted, while the run starts it": "Make sure this host can be reached over ssh",
    "gateway: /etc/trtllm read-only, before the run": "Read-only file system; give a path on a file system",
    "triton: CDI stale: no such device, before the run": "unresolvable CDI devices nvidia.com/gpu=0",
    "container_toolkit: host lost, while CDI is made": "Make sure this host can be reached over ssh",
    "triton: units read-only, before the run": "Read-only file system; give a path on a file system",
    "verify: module killed, while it looks for replicas": "the module was killed on the host",
    "verify: release record removed, before the run": "the release record does not tell of the unit of triton-",
    "checkpoint: hub lies about bytes, in the download": "arrived damaged .it is not what the source's own digest says",
    "engine: memory short, before the run": "The host has 0.2 MiB of memory available, but converting",
    "checkpoint: hub cuts the connection, in the download": "127.0.0.1 does not send the rest of model-00001-of-00002",
    "engine: GPU gone from the bus, before the run": "nvidia-smi does not list the GPUs .No devices were found",
    "checkpoint: hub away, before the run": "cannot be resolved: .*Connection refused; run again once the hub",
    "engine: driver and library of two versions, before the run": "nvidia-smi does not list .*library version mismatch",
    "image: host lost, in the middle of the pull": "Make sure this host can be reached over ssh",
    "image: disk full, in the pull": "podman cannot pull .*no space left on device",
    "checkpoint: disk read-only, before the run": "/srv/scratch/checkpoints: Read-only file system; give a path",
    "triton: masked by hand, before the run": "somebody has masked triton-tiny-llama-0.service on this host",
    "engine: disk full, before the run": "/srv/scratch has [0-9.]+ MiB free, but making the engine needs about",
    "engine: disk full, in the middle of a build": "the disk is full; free space on the file system",
    "image: disk read-only, before the run": "podman cannot read the image .*read-only file system",
    # In the sentence that tells of the lost host, which is shortened.
    "image: inodes gone, in the pull": r"podman cannot pull .{1,450}: no space left on device(?= \(at ')",
    "gateway: replica behind it away, before the run": (
        "triton-tiny-llama-0 is inactive .dead.; 'journalctl -u triton-tiny-llama-0' on the host says why"
    ),
    "verify: host frozen, before the run": "the host did not answer",
    "verify: replica killed, while it is asked": "did not answer get_server_metadata: .Errno 111. Connection refused",
    "rollout: host rebooted, while the unit is changed": "Make sure this host can be reached over ssh",
    "model_repository: inodes gone, before the run": (
        "/var/lib/trtllm/repositories/tiny-llama/.*: No space left on device; make room there"
    ),
    "gpu_driver: disk read-only, before the run": (
        "trtllm-nvidia-driver.list was not written: .*not writable; see that its file system can be written"
    ),
    "gpu_driver: GPU gone from the bus, before the run": (
        "has 2 GPUs on the bus, but nvidia-smi answers for 1: it does not list 0000"
    ),
    "rollout: CDI stale: no such device, before the unit is changed": (
        'unresolvable CDI devices nvidia.com/gpu=0". Its previous unit was put back and did not come up either'
    ),
    "model_repository: disk read-only, before the run": (
        "/var/lib/trtllm/repositories/tiny-llama: Read-only file system; give a path on a file system"
    ),
    "model_repository: disk full, before the run": (
        "/var/lib/trtllm/repositories/.*: No space left on device; make room there"
    ),
    "engine: CDI stale: no such device, before the run": "unresolvable CDI devices nvidia.com/gpu=0",
    "verify: host lost, while it is asked": "Triton at http:.{1,60} did not answer get_server_metadata",
    "engine: inodes gone, before the run": "No space left on device; make room there",
    "rollout: host lost, while the unit is changed": "Make sure this host can be reached over ssh",
    "rollout: memory short: the new one does not get what it asks for, at its start": (
        'Bad option: "--pinned-memory-pool-byte-size". Invalid option value. Got not-a-number'
    ),
    "rollout: new container killed again and again, at its start": (
        "exited on signal 9 .Killed.{1,5} Its previous unit was put back and serves again"
    ),
    "checkpoint: DNS gone, before the run": (
        "cannot be resolved: .*Name or service not known; run again once the hub http://hub.invalid"
    ),
    "checkpoint: container killed, in the middle of the download": (
        "ended too early, it was stopped or killed .{1,40}; what has arrived is kept, so run again"
    ),
    "checkpoint: host rebooted, in the middle of the download": (
        "ended too early, it was stopped or killed .{1,40}; what has arrived is kept, so run again"
    ),
    "triton: GPU gone from the bus, before the run": (
        "nvidia-smi does not list the GPUs .No devices were found.; check the driver"
    ),
    "triton: another process has its port, before the run": (
        "port 8000 of .{1,30} is held by python3 .*Nothing was changed"
    ),
    "engine: nvidia-smi hangs, as with a GPU that fell off the bus, before the run": (
        "nvidia-smi does not list the GPUs .nvidia-smi gave no answer within 60 s"
    ),
    "triton: podman's storage damaged: its list of images cut short, before the run": (
        "podman cannot read the image .*images.json"
    ),
    "triton: podman's storage damaged: a layer is gone, before the run": (
        "did not come up: .Error: creating container storage: .*no such file or directory"
    ),
    "engine: host lost, in the middle of a build": "Make sure this host can be reached over ssh",
    "checkpoint: disk full, in the middle of the download": (
        "The download of from-hub found no room in .* make room there, then run again; what has arrived is kept"
    ),
    "rollout: engine's disk read-only, before the run": (
        "/var/lib/trtllm/rollouts/.lock: Read-only file system; give a path"
    ),
    "tokenizer: host lost, while it is installed": "Failed to connect to the host via ssh",
    "model_repository: host lost, while it renders": "Make sure this host can be reached over ssh",
    "gateway: host lost, while it is started": "Make sure this host can be reached over ssh",
    "gateway: disk full, before the run": "/etc/trtllm/.*No space left on device; make room there",
    "gateway: inodes gone, before the run": (
        "creating /etc/trtllm/openai_gateway as requested: .*No space left on device"
    ),
    "triton: disk of the units full, before the run": (
        "/etc/containers/systemd/.*No space left on device; make room there"
    ),
    "triton: inodes of the units' disk gone, before the run": (
        "/etc/containers/systemd/.*No space left on device; make room there"
    ),
    "container_toolkit: disk full, before the run": "/etc/cdi/nvidia.yaml was not made: .*No space left on device",
}
