# SPDX-License-Identifier: GPL-3.0-or-later
"""Where secrets are on a host: hunt.py SECRET..., each written backwards; and what of ours others may write."""

import json
import os
import stat
import subprocess
import sys

SECRETS = [word[::-1].encode() for word in sys.argv[1:]]
# Files, and below /var/lib/containers those that say how containers run; layers of images are not ours.
ROOTS = (
    "/etc", "/var/lib/trtllm", "/var/log", "/var/tmp", "/tmp", "/run", "/root", "/home", "/usr/local",
    "/var/lib/containers/storage/overlay-containers", "/var/lib/systemd",
)  # fmt: skip
OURS = ("/etc/trtllm", "/var/lib/trtllm", "/etc/containers/systemd")
TOLD = {
    "the journal": ["journalctl", "--no-pager", "--output=cat"],
    "units": ["systemctl", "show", "--all", "*"],
    "containers": ["sh", "-c", "podman inspect $(podman ps --all --quiet)"],
    "secrets of podman": ["podman", "secret", "ls"],
}
LARGEST = 64 << 20


def said(place, content):
    return [f"{place} {secret.decode()}" for secret in SECRETS if secret in content]


def files():
    for root in ROOTS:
        for directory, _names, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    about = os.lstat(path)
                    if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST:
                        with open(path, "rb") as file:
                            yield path, file.read()
                except OSError:
                    continue


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            for kind in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{name}/{kind}", "rb") as file:
                        yield f"/proc/{name}/{kind}", file.read()
                except OSError:
                    continue


def others_may_write():
    for root in OURS:
        for directory, names, files_ in os.walk(root):
            for name in (*names, *files_):
                path = os.path.join(directory, name)
                about = os.lstat(path)
                if not stat.S_ISLNK(about.st_mode) and about.st_mode & stat.S_IWOTH:
                    yield f"{stat.filemode(about.st_mode)} {path}"


places = []
for path, content in files():
    places += said("arguments" if path == "/run/molecule-arguments" else path, content)
for path, content in processes():
    places += said(path, content)
for what, argv in TOLD.items():
    done = subprocess.run(argv, capture_output=True, check=False)
    places += said(what, done.stdout)
    if what == "units":
        places += [f"molecule-bait.service {secret.decode()}" for secret in SECRETS if b"BAIT=" + secret in done.stdout]
print(json.dumps({"places": places, "open": list(others_may_write())}))
