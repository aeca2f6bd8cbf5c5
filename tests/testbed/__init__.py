# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: real systemd hosts with their own address, ssh and nested podman, in about a second each."""
