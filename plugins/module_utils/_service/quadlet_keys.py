# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a Quadlet ``[Container]`` section, and how each is said on the ``podman run`` command line.

Facts only: which podman first knows a key, in which form the generator reads its value, and which option
says the same to a podman that has no such key (or no Quadlet at all).
"""

from __future__ import annotations

from typing import NamedTuple

Version = tuple[int, int]


class Key(NamedTuple):
    """One key of ``[Container]``.

    ``option`` is None where no command-line option says the same. ``form`` is how the generator reads the
    value: ``line`` (the raw rest of the line, the last one wins), ``list`` (a raw line each), ``words``
    (split like a shell does, so a value with a blank needs quotes), ``flag`` (true or false).
    """

    first: Version
    form: str
    option: str | None


def _keys(first: Version, form: str, **options: str | None) -> dict[str, Key]:
    return {name: Key(first, form, option) for name, option in options.items()}


CONTAINER_KEYS: dict[str, Key] = {
    **_keys(
        (4, 4),
        "line",
        ContainerName="--name",
        Group=None,
        Image=None,
        RemapGid=None,
        RemapUid=None,
        RemapUidSize=None,
        RemapUsers=None,
        SeccompProfile="--security-opt=seccomp",
        Timezone="--tz",
        User="--user",
    ),
    **_keys((4, 4), "list", ExposeHostPort="--expose", Network="--network"),
    **_keys((4, 4), "list", PublishPort="--publish", Volume="--volume"),
    **_keys(
        (4, 4),
        "words",
        AddCapability="--cap-add",
        AddDevice="--device",
        Annotation="--annotation",
        DropCapability="--cap-drop",
        Environment="--env",
        EnvironmentFile="--env-file",
        Exec=None,
        Label="--label",
        PodmanArgs=None,
    ),
    **_keys(
        (4, 4),
        "flag",
        EnvironmentHost="--env-host",
        NoNewPrivileges="--security-opt=no-new-privileges",
        ReadOnly="--read-only",
        RunInit="--init",
        VolatileTmp=None,
    ),
    # Notify is a flag from the beginning; that it may also be `healthy` is a rule of its own.
    **_keys((4, 4), "line", Notify=None),
    **_keys(
        (4, 5),
        "line",
        HealthCmd="--health-cmd",
        HealthInterval="--health-interval",
        HealthOnFailure="--health-on-failure",
        HealthRetries="--health-retries",
        HealthStartPeriod="--health-start-period",
        HealthStartupCmd="--health-startup-cmd",
        HealthStartupInterval="--health-startup-interval",
        HealthStartupRetries="--health-startup-retries",
        HealthStartupSuccess="--health-startup-success",
        HealthStartupTimeout="--health-startup-timeout",
        HealthTimeout="--health-timeout",
        IP="--ip",
        IP6="--ip6",
        LogDriver="--log-driver",
        Rootfs="--rootfs",
        SecurityLabelFileType="--security-opt=label=filetype",
        SecurityLabelLevel="--security-opt=label=level",
        SecurityLabelType="--security-opt=label=type",
        UserNS="--userns",
    ),
    **_keys((4, 5), "list", Tmpfs="--tmpfs"),
    **_keys((4, 5), "words", Mount="--mount", Secret="--secret"),
    **_keys((4, 5), "flag", SecurityLabelDisable="--security-opt=label=disable"),
    **_keys((4, 6), "line", AutoUpdate=None, HostName="--hostname", Pull="--pull", WorkingDir="--workdir"),
    **_keys((4, 6), "words", Mask="--security-opt=mask", Sysctl="--sysctl", Unmask="--security-opt=unmask"),
    **_keys((4, 6), "flag", SecurityLabelNested="--security-opt=label=nested"),
    **_keys((4, 7), "line", PidsLimit="--pids-limit", ShmSize="--shm-size"),
    **_keys((4, 7), "list", DNS="--dns", DNSOption="--dns-option", DNSSearch="--dns-search"),
    **_keys((4, 7), "list", Ulimit="--ulimit"),
    **_keys((4, 8), "line", ContainersConfModule=None, SubGIDMap=None, SubUIDMap=None),
    **_keys((4, 8), "list", GIDMap="--gidmap", UIDMap="--uidmap"),
    **_keys((4, 8), "words", GlobalArgs=None),
    **_keys((4, 8), "flag", ReadOnlyTmpfs="--read-only-tmpfs"),
    **_keys((5, 0), "line", Entrypoint="--entrypoint", Pod=None, StopTimeout="--stop-timeout"),
    **_keys((5, 1), "list", GroupAdd="--group-add"),
    **_keys((5, 2), "line", StopSignal="--stop-signal"),
    **_keys((5, 2), "list", NetworkAlias="--network-alias"),
    **_keys((5, 2), "words", LogOpt="--log-opt"),
    **_keys(
        (5, 3),
        "line",
        CgroupsMode="--cgroups",
        HealthLogDestination="--health-log-destination",
        HealthMaxLogCount="--health-max-log-count",
        HealthMaxLogSize="--health-max-log-size",
        ServiceName=None,
    ),
    **_keys((5, 3), "list", AddHost="--add-host"),
    **_keys((5, 3), "flag", StartWithPod=None),
    **_keys(
        (5, 5),
        "line",
        Memory="--memory",
        ReloadCmd=None,
        ReloadSignal=None,
        Retry="--retry",
        RetryDelay="--retry-delay",
    ),
}

# Options of `podman run` that are younger than the oldest podman served, with their first version.
OPTION_FIRST: dict[str, Version] = {
    "--health-on-failure": (4, 3),
    "--health-startup-cmd": (4, 4),
    "--health-startup-interval": (4, 4),
    "--health-startup-retries": (4, 4),
    "--health-startup-success": (4, 4),
    "--health-startup-timeout": (4, 4),
    "--health-log-destination": (5, 3),
    "--health-max-log-count": (5, 3),
    "--health-max-log-size": (5, 3),
    "--retry": (5, 0),
    "--retry-delay": (5, 0),
}

# A repeated key that an older generator takes only once (the last wins), and the first that takes all.
REPEATED_FIRST: dict[str, Version] = {"Ulimit": (5, 0)}

OLDEST: Version = (4, 1)  # `podman run --device` takes CDI names
FIRST_QUADLET: Version = (4, 4)
FIRST_SDNOTIFY_HEALTHY: Version = (4, 7)
FIRST_NOTIFY_HEALTHY: Version = (5, 0)
NEWEST: Version = (5, 8)
