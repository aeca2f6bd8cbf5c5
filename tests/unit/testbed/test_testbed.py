# SPDX-License-Identifier: GPL-3.0-or-later
"""The testbed's decisions, without podman: work-arounds, addresses, what is kept, refused and printed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from testbed import cli, engine, files, hosts, inventory, network, outer, probes, registry, rootfs, settings, tools
from testbed.errors import TestbedError

TESTBED = Path(rootfs.__file__).parent
PROPER = probes.Machine()
CONTAINER_LIKE = probes.Machine(
    init="init",
    cgroup="hybrid",
    controllers=frozenset({"hugetlb"}),
    capabilities=((1 << 41) - 1) & ~(1 << probes.CAP_SYS_RESOURCE),
    nofile=20000,
    nproc=96365,
    mtu=1400,
)


def script(path: str) -> ModuleType:
    """A script of the hosts as a module."""
    loader = importlib.machinery.SourceFileLoader(Path(path).name.replace("-", "_"), str(TESTBED / "host/files" / path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


class TestWorkarounds:
    def test_none_on_a_machine_with_systemd_and_cgroup_v2(self) -> None:
        assert probes.needed(PROPER) == []
        assert probes.containers_conf(PROPER) == ""

    def test_all_on_a_machine_that_has_neither(self) -> None:
        assert [workaround.name for workaround in probes.needed(CONTAINER_LIKE)] == [
            "private-cgroup2", "no-systemd", "no-pids-controller", "hard-limits", "chroot-build",
        ]  # fmt: skip
        assert probes.containers_conf(CONTAINER_LIKE) == (
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\n'
        )

    @pytest.mark.parametrize(
        ("lacking", "names"),
        [
            ({"init": "tini"}, ["no-systemd"]),
            ({"cgroup": "legacy"}, ["private-cgroup2"]),
            ({"controllers": frozenset({"cpu", "memory", "io"})}, ["no-pids-controller"]),
            ({"capabilities": 0}, ["hard-limits", "chroot-build"]),
        ],
    )
    def test_each_is_due_to_one_lack(self, lacking: dict[str, Any], names: list[str]) -> None:
        machine = probes.Machine(**lacking)
        assert [workaround.name for workaround in probes.needed(machine)] == names

    @pytest.mark.parametrize(
        ("mountinfo", "layout"),
        [
            ("24 1 0:21 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n", "unified"),
            (
                "24 1 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
                "25 24 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
                "hybrid",
            ),
            ("24 1 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "legacy"),
        ],
    )
    def test_cgroup_layout(self, mountinfo: str, layout: str) -> None:
        assert probes.cgroup_layout(mountinfo) == layout

    def test_default_interface(self) -> None:
        route = "Iface\tDestination\tGateway\neth1\t000AC80A\t0\neth0\t00000000\t010200C0\n"
        assert probes.default_interface(route) == "eth0"
        assert probes.default_interface("Iface\tDestination\n") is None

    def test_this_machine_can_be_looked_at(self) -> None:
        assert probes.probe().cgroup in ("unified", "hybrid", "legacy")


class TestInotify:
    @pytest.mark.parametrize(("before", "after"), [("128", "1024"), ("8192", "8192")])
    def test_a_limit_that_is_too_low_is_raised(self, tmp_path: Path, before: str, after: str) -> None:
        (tmp_path / "limit").write_text(f"{before}\n")
        outer.ensure_inotify(tmp_path / "limit")
        assert (tmp_path / "limit").read_text().strip() == after

    def test_one_that_cannot_be_raised_is_left(self, tmp_path: Path) -> None:
        outer.ensure_inotify(tmp_path / "none")


class TestSettings:
    def test_cache_follows_the_environment(self) -> None:
        read = settings.from_environment
        assert read({"HOME": "/h"}).cache == Path("/h/.cache/trtllm-fleet/testbed")
        assert read({"HOME": "/h", "XDG_CACHE_HOME": "/x"}).cache == Path("/x/trtllm-fleet/testbed")
        assert read({"XDG_CACHE_HOME": "/x", "TRTLLM_FLEET_CACHE": "/c"}).cache == Path("/c/testbed")

    def test_addresses_follow_the_subnet(self) -> None:
        other = settings.from_environment({"TRTLLM_TESTBED_SUBNET": "172.30.4.0/24"})
        assert (other.gateway, other.registry) == ("172.30.4.1", "172.30.4.2:5000")
        assert other.address("172.30.4.9") == "172.30.4.9"

    @pytest.mark.parametrize("subnet", ["10.0.0.0/28", "10.0.0.1/24", "fd00::/64", "everything"])
    def test_bad_subnet(self, subnet: str) -> None:
        with pytest.raises(TestbedError, match="TRTLLM_TESTBED_SUBNET"):
            settings.from_environment({"TRTLLM_TESTBED_SUBNET": subnet})

    @pytest.mark.parametrize("address", ["10.200.0.0", "10.200.0.1", "10.200.0.255", "10.9.0.9", "host", "::1"])
    def test_bad_address(self, config: settings.Settings, address: str) -> None:
        with pytest.raises(TestbedError, match=r"10\.200\.0\.0/24"):
            config.address(address)


class FakeContainers:
    """As much of docker's containers as placing a host needs."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    def create(self, image: str, **arguments: Any) -> SimpleNamespace:
        self.made.append(arguments)
        return container(arguments["name"], labels=arguments["labels"])


class FakeClient:
    """As much of docker's client as placing a host needs."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.api = SimpleNamespace(create_endpoint_config=lambda **given: given)
        self.removed: list[str] = []
        self.volumes = SimpleNamespace(get=lambda name: SimpleNamespace(remove=lambda force: self.removed.append(name)))


def container(name: str, labels: dict[str, str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, labels=labels or {}, remove=lambda **given: None)


def running(host: hosts.Host, ip: str, image: str = "image:1") -> SimpleNamespace:
    """The container of a host that was brought up before."""
    client = FakeClient()
    labels = hosts._arguments(client, host, image, ip)["labels"]
    return container(host.name, labels)


class TestPlacing:
    def place(self, config: settings.Settings, host: hosts.Host, *there: SimpleNamespace, **given: Any) -> Any:
        self.client = FakeClient()
        existing = {c.name: c for c in there}
        return hosts._place(config, self.client, host, "image:1", existing, given.get("recreate", False))

    def test_new_host_gets_what_it_asks_for(self, config: settings.Settings) -> None:
        host = hosts.parse("n1=10.200.0.21", config, volumes=("data:/data",), tmpfs=("/scratch:size=1m",), gpu=False)
        boot = self.place(config, host)
        (made,) = self.client.containers.made
        assert boot.created and boot.ip == "10.200.0.21"
        assert made["volumes"] == ["n1-containers:/var/lib/containers", "data:/data"]
        assert made["tmpfs"] == {"/scratch": "size=1m"}
        assert made["environment"]["TESTBED_GPU"] == "0"
        assert made["networking_config"] == {
            settings.NETWORK: {"ipv4_address": "10.200.0.21", "mac_address": "02:42:0a:c8:00:15"}
        }

    def test_without_an_address_the_first_free_one(self, config: settings.Settings) -> None:
        first = running(hosts.Host("a"), "10.200.0.100")
        assert self.place(config, hosts.Host("b"), first).ip == "10.200.0.101"

    def test_the_same_host_is_kept(self, config: settings.Settings) -> None:
        there = running(hosts.Host("n1"), "10.200.0.21")
        assert self.place(config, hosts.parse("n1=10.200.0.21", config), there).created is False
        assert self.place(config, hosts.parse("n1", config), there).ip == "10.200.0.21"

    @pytest.mark.parametrize(
        ("asked", "image", "differs"),
        [
            (hosts.Host("n1", "10.200.0.22"), "image:1", "address"),
            (hosts.Host("n1", gpu=False), "image:1", "set of options"),
            (hosts.Host("n1"), "image:0", "image"),
        ],
    )
    def test_another_one_is_refused_or_replaced(
        self, config: settings.Settings, asked: hosts.Host, image: str, differs: str
    ) -> None:
        there = running(hosts.Host("n1"), "10.200.0.21", image)
        with pytest.raises(TestbedError, match=f"another {differs}; give --recreate"):
            self.place(config, asked, there)
        assert self.place(config, asked, there, recreate=True).created
        assert self.client.removed == ["n1-containers"]

    def test_foreign_container_of_the_name_is_left_alone(self, config: settings.Settings) -> None:
        with pytest.raises(TestbedError, match="no test host"):
            self.place(config, hosts.Host("n1"), container("n1"), recreate=True)

    def test_taken_addresses(self, config: settings.Settings) -> None:
        with pytest.raises(TestbedError, match="is the address of host n1"):
            self.place(config, hosts.Host("n2", "10.200.0.21"), running(hosts.Host("n1"), "10.200.0.21"))
        with pytest.raises(TestbedError, match="reserved for the registry"):
            self.place(config, hosts.Host("n2", config.registry_ip))


class TestHostOptions:
    @pytest.mark.parametrize("name", ["", "-a", "a b", "a;b", "ä", "x" * 64])
    def test_bad_name(self, config: settings.Settings, name: str) -> None:
        with pytest.raises(TestbedError, match="cannot be a host's name"):
            hosts.parse(name, config)

    @pytest.mark.parametrize("volume", ["data", "data:", "data:relative"])
    def test_bad_volume(self, config: settings.Settings, volume: str) -> None:
        with pytest.raises(TestbedError, match="is no volume"):
            hosts.parse("n1", config, volumes=(volume,))

    @pytest.mark.parametrize("source", ["/nowhere/at/all", "./here"])
    def test_source_that_podman_would_make_up(self, config: settings.Settings, source: str) -> None:
        with pytest.raises(TestbedError, match="no absolute path of something that exists"):
            hosts.parse("n1", config, volumes=(f"{source}:/data",))


class TestNetwork:
    subnet = ipaddress.IPv4Network("10.200.0.0/24")

    def test_free_subnet(self) -> None:
        routes = [{"dst": "default", "dev": "eth0"}, {"dst": "192.0.2.0/24", "dev": "eth0"}, {"dst": "10.1.1.1"}]
        assert network.clashing(self.subnet, routes) is None

    def test_subnet_in_use(self) -> None:
        assert network.clashing(self.subnet, [{"dst": "10.0.0.0/8", "dev": "vpn0"}]) == "10.0.0.0/8 on vpn0"

    def test_subnet_of_nested_podman(self) -> None:
        assert "10.88.0.0/16" in str(network.clashing(ipaddress.IPv4Network("10.88.7.0/24"), []))

    @pytest.mark.parametrize(("kind", "done"), [("1", True), ("3", False)])
    def test_the_machines_end_has_an_address_that_hosts_do_not_change(
        self, config: settings.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, done: bool
    ) -> None:
        (tmp_path / "br7").mkdir()
        (tmp_path / "br7/addr_assign_type").write_text(f"{kind}\n")
        asked: list[list[str]] = []

        def ip(command: list[str], **_: Any) -> SimpleNamespace:
            asked.append(command)
            return SimpleNamespace(stdout='[{"ifname": "br7"}]')

        monkeypatch.setattr(network, "INTERFACES", tmp_path)
        monkeypatch.setattr("testbed.network.subprocess.run", ip)
        network.keep_address(config)
        assert "10.200.0.1" in asked[0]
        assert asked[1:] == [["ip", "link", "set", "dev", "br7", "address", "02:42:0a:c8:00:01"]] * done


class TestInventory:
    def test_host_keys_are_pinned(self, config: settings.Settings) -> None:
        tree = inventory.inventory(config, {"n1": "10.200.0.21"})["all"]
        assert tree["hosts"] == {"n1": {"ansible_host": "10.200.0.21"}}
        assert "StrictHostKeyChecking=yes" in tree["vars"]["ansible_ssh_common_args"]
        assert f"UserKnownHostsFile={config.known_hosts}" in tree["vars"]["ansible_ssh_common_args"]
        assert tree["vars"]["ansible_ssh_private_key_file"] == str(config.key)

    def test_group(self, config: settings.Settings) -> None:
        tree = inventory.inventory(config, {"n1": "10.200.0.21"}, "gpu_hosts")["all"]
        assert list(tree["children"]["gpu_hosts"]["hosts"]) == ["n1"]

    def test_ssh_config(self, config: settings.Settings) -> None:
        text = inventory.ssh_config(config, {"n1": "10.200.0.21"})
        assert text.startswith("Host n1\n  HostName 10.200.0.21\n  User root\n")
        assert f"  IdentityFile {config.key}\n" in text


class TestRegistry:
    @pytest.mark.parametrize(
        ("image", "name"),
        [
            ("localhost/triton_cpu:1.0", "triton_cpu:1.0"),
            ("triton_cpu", "triton_cpu:latest"),
            ("example.org:5000/team/image:2", "team/image:2"),
            ("team/image:2", "team/image:2"),
        ],
    )
    def test_default_name(self, image: str, name: str) -> None:
        assert registry.default_name(image) == name

    def test_image_without_a_tag_needs_a_name(self) -> None:
        with pytest.raises(TestbedError, match="say what to call it"):
            registry.default_name("sha256:" + "0" * 64)

    def test_compression_keeps_the_image_id(self) -> None:
        assert registry.compression("application/vnd.oci.image.manifest.v1+json") == "zstd"
        assert registry.compression("application/vnd.docker.distribution.manifest.v2+json") == "gzip"

    def test_an_image_that_is_there_is_not_sent(
        self, config: settings.Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        identity, calls = "ab" * 32, []

        def podman(where: settings.Settings, *argv: str, check: bool = True) -> SimpleNamespace:
            calls.append(argv[0])
            return SimpleNamespace(returncode=0, stdout=f"application/vnd.oci.image.manifest.v1+json {identity}\n")

        manifest = {"config": {"digest": f"sha256:{identity}"}}
        monkeypatch.setattr("testbed.registry.outer.podman", podman)
        monkeypatch.setattr(registry, "up", lambda where: None)
        monkeypatch.setattr(registry, "_get", lambda where, path, accept="": (200, json.dumps(manifest).encode()))
        assert registry.push(config, "localhost/foo:1") == ("10.200.0.2:5000/foo:1", False)
        manifest["config"]["digest"] = "sha256:" + "cd" * 32
        assert registry.push(config, "localhost/foo:1") == ("10.200.0.2:5000/foo:1", True)
        assert calls == ["image", "image", "push"]


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _as_root(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path))
        monkeypatch.delenv("TRTLLM_TESTBED_SUBNET", raising=False)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr("testbed.cli.signal.signal", lambda *given: None)

    def asked(self, monkeypatch: pytest.MonkeyPatch, *argv: str) -> tuple[list[hosts.Host], bool]:
        """What `testbed up` would bring up."""
        seen: list[tuple[list[hosts.Host], bool]] = []

        def up(where: settings.Settings, wanted: list[hosts.Host], recreate: bool) -> list[hosts.Boot]:
            seen.append((wanted, recreate))
            return []

        monkeypatch.setattr(hosts, "up", up)
        assert cli.main(["up", *argv]) == 0
        (found,) = seen
        return found

    def test_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted, recreate = self.asked(monkeypatch, "a=10.200.0.21", "b", "--no-gpu", "--tmpfs", "/s", "--recreate")
        assert wanted == [hosts.Host("a", "10.200.0.21", False, (), ("/s",)), hosts.Host("b", None, False, (), ("/s",))]
        assert recreate

    def test_up_from_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        platforms = [{"name": "a", "ip": "10.200.0.21", "groups": ["gpu"]}, {"name": "b", "gpu": False}]
        (tmp_path / "platforms.json").write_text(json.dumps(platforms))
        wanted, _ = self.asked(monkeypatch, "--from", str(tmp_path / "platforms.json"))
        assert wanted == [hosts.Host("a", "10.200.0.21"), hosts.Host("b", gpu=False)]

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["up"], "give one or more hosts"),
            (["up", "a", "a"], "with different names"),
            (["up", "a=1.2.3.4"], "cannot be a host's address"),
            (["up", "--from", "/nowhere"], "could not be read as JSON"),
            (["up", "a"], "run `testbed prepare` first"),
            (["down"], "say which hosts"),
            (["down", "a", "--all"], "say which hosts"),
        ],
    )
    def test_bad_input_is_one_sentence(self, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
        assert cli.main(argv) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("testbed: ") and captured.err.count("\n") == 1 and said in captured.err

    def test_not_root(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert cli.main(["list"]) == 1
        assert "need root" in capsys.readouterr().err

    def test_doctor_needs_no_root(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr("testbed.cli.outer.machine", lambda: PROPER)
        assert cli.main(["doctor"]) == 0
        assert "needs no work-around" in capsys.readouterr().out

    def test_options_after_the_dashes_are_the_commands(self) -> None:
        arguments = cli.parser().parse_args(["exec", "n1", "--", "ls", "-l", "--all"])
        assert arguments.command == ["ls", "-l", "--all"]

    def test_what_podman_says_is_passed_on(self) -> None:
        class Said(Exception):
            explanation = "first\nthe subnet is used"

        Said.__module__ = "docker.errors"
        assert engine.reason(Said()) == "the subnet is used"
        assert engine.reason(ValueError("a fault of ours")) is None


class TestMachineTools:
    def test_missing_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = "".join(f"{name} installed\n" for name in tools.PACKAGES if name not in ("podman", "zstd"))
        monkeypatch.setattr("testbed.tools.shutil.which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(
            "testbed.tools.subprocess.run", lambda *a, **k: SimpleNamespace(stdout=f"{listed}zstd config-files\n")
        )
        assert tools.missing() == ["podman", "zstd"]

    def test_no_apt(self, config: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("testbed.tools.shutil.which", lambda name: None)
        with pytest.raises(TestbedError, match="podman, zstd must be installed"):
            tools.install(config, ["podman", "zstd"])

    def test_apt_that_reaches_nothing(self, config: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        def call(argv: list[str], stdout: Any, **given: Any) -> int:
            stdout.write("Err:1 http://deb.example stable InRelease\n  Temporary failure resolving 'deb.example'\n")
            return 100

        monkeypatch.setattr("testbed.tools.shutil.which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr("testbed.tools.subprocess.call", call)
        config.logs.mkdir(parents=True)
        with pytest.raises(TestbedError, match=r"stable InRelease Temporary failure resolving 'deb\.example'"):
            tools.install(config, ["zstd"])

    @pytest.mark.parametrize(("version", "fits"), [("3.4.4", False), ("4.3.1", True), ("5.4.2-dev", True)])
    def test_podman_version(self, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
        monkeypatch.setattr(
            "testbed.tools.subprocess.run", lambda *a, **k: SimpleNamespace(stdout=f"podman version {version}\n")
        )
        if fits:
            tools.require_podman()
        else:
            with pytest.raises(TestbedError, match=r"podman 3\.4\.4 is too old"):
                tools.require_podman()

    def test_no_space(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("testbed.tools.shutil.disk_usage", lambda path: SimpleNamespace(free=10**8))
        with pytest.raises(TestbedError, match="100 MB free and the testbed needs 2500 MB"):
            tools.require_space(tmp_path / "not" / "there", 2500)


class TestImage:
    def keys(self, config: settings.Settings) -> None:
        for key in (config.key, config.host_key):
            key.parent.mkdir(parents=True, exist_ok=True)
            key.write_text("private")
            Path(f"{key}.pub").write_text("ssh-ed25519 AAAA testbed")

    def test_name_follows_content(self, config: settings.Settings) -> None:
        self.keys(config)
        before = rootfs.current_image(config)
        assert before == rootfs.current_image(config)
        Path(f"{config.key}.pub").write_text("ssh-ed25519 BBBB testbed")
        assert rootfs.current_image(config) != before

    def test_another_release_has_an_image_of_its_own_and_its_own_files(self, config: settings.Settings) -> None:
        self.keys(config)
        assert rootfs.current_image(config, "bookworm") != rootfs.current_image(config)
        common, other = rootfs.context(config), rootfs.context(config, "bookworm")
        shim = "files/usr/local/sbin/bed-crun"
        assert other["files/usr/local/lib/testbed/common/bed-crun"] == common[shim] != other[shim]
        assert hosts.parse("n1", config, suite="bookworm").spec() == hosts.parse("n1", config).spec()

    def test_a_release_that_nobody_knows_is_refused(self, config: settings.Settings) -> None:
        with pytest.raises(TestbedError, match=r"'sid' is no release that a host can be made of; use trixie or"):
            hosts.parse("n1", config, suite="sid")

    def test_keys_are_private(self, config: settings.Settings) -> None:
        self.keys(config)
        found = rootfs.context(config)
        assert found["files/etc/ssh/ssh_host_ed25519_key"][1] == 0o600
        assert found["files/usr/local/sbin/init"][1] == 0o755

    def test_base_follows_the_package_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = rootfs.base_key()
        monkeypatch.setattr(rootfs, "PACKAGES", rootfs.PACKAGES + " jq")
        assert rootfs.base_key() != before

    def test_hosts_share_the_machines_way_to_its_mirror(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dump = 'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy:3128";\nDir "/";\n'
        monkeypatch.setattr("testbed.rootfs.subprocess.run", lambda *a, **k: SimpleNamespace(stdout=dump))
        assert rootfs.machine_apt() == 'Acquire::http::Proxy "http://proxy:3128";\n'


class TestFiles:
    def test_write_is_whole_or_nothing(self, tmp_path: Path) -> None:
        target = tmp_path / "sub" / "file"
        assert files.write(target, "one", 0o600) is True
        assert files.write(target, "one", 0o600) is False
        assert target.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in target.parent.iterdir()] == ["file"]

    def test_lock_of_a_dead_holder_is_free(self, tmp_path: Path) -> None:
        holder = (
            f"import os, sys; sys.path.insert(0, {str(TESTBED.parent)!r})\n"
            "from pathlib import Path; from testbed import files\n"
            f"with files.lock(Path({str(tmp_path / 'lock')!r})): os._exit(9)\n"
        )
        assert subprocess.run([sys.executable, "-c", holder], check=False).returncode == 9
        with files.lock(tmp_path / "lock"):
            pass

    def test_directory_is_emptied(self, tmp_path: Path) -> None:
        (tmp_path / "d" / "deep").mkdir(parents=True)
        assert list(files.empty_directory(tmp_path / "d").iterdir()) == []


class TestHostScripts:
    def smi(self, *argv: str) -> tuple[int, list[str]]:
        path = TESTBED / "host/files/usr/bin/nvidia-smi"
        done = subprocess.run([sys.executable, "-IS", str(path), *argv], text=True, capture_output=True, check=False)
        return done.returncode, done.stdout.splitlines()

    def test_nvidia_smi_queries(self) -> None:
        fields = "--query-gpu=index,name,compute_cap,memory.total"
        assert self.smi(fields, "--format=csv,noheader,nounits") == (
            0, ["0, NVIDIA Fabricated GPU, 9.0, 81559", "1, NVIDIA Fabricated GPU, 9.0, 81559"],
        )  # fmt: skip
        assert self.smi(fields, "--format=csv", "-i", "1") == (
            0, ["index, name, compute_cap, memory.total [MiB]", "1, NVIDIA Fabricated GPU, 9.0, 81559 MiB"],
        )  # fmt: skip
        assert self.smi("-L")[1][0].startswith("GPU 0: NVIDIA Fabricated GPU (UUID: GPU-")

    def test_nvidia_smi_refuses_what_it_does_not_know(self) -> None:
        assert self.smi("--query-gpu=index,colour", "--format=csv") == (
            2, ['Field "colour" is not a valid field to query.'],
        )  # fmt: skip
        assert self.smi("--query-gpu=index")[0] == 2
        assert self.smi("--frobnicate")[0] == 2
        assert self.smi("-L", "-i", "7") == (6, ["No devices were found"])

    def test_nvidia_smi_reads_the_hosts_own_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = script("usr/bin/nvidia-smi")
        monkeypatch.setattr(module, "gpus", lambda: [{**module.fabricated(0), "index": 0, "mig.mode.current": None}])
        lines = list(module.query(module.gpus(), ["mig.mode.current", "count"], ["csv", "noheader"]))
        assert lines == ["[N/A], 1"]

    def test_crun_loses_only_what_the_host_lacks(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        module = script("usr/local/sbin/bed-crun")
        monkeypatch.setattr(module.resource, "getrlimit", lambda number: (1024, 4096))
        (tmp_path / "controllers").write_text("memory hugetlb")
        config = {
            "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2**64 - 1, "soft": 10}], "oomScoreAdj": 5},
            "linux": {"resources": {"memory": {"limit": 1}, "pids": {"limit": 2}, "devices": []}},
        }
        module.fit(config, str(tmp_path / "controllers"))
        assert config == {
            "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 10}]},
            "linux": {"resources": {"memory": {"limit": 1}, "devices": []}},
        }

    def test_crun_options(self) -> None:
        option = script("usr/local/sbin/bed-crun").option
        assert option(["create", "--bundle", "/b"], "-b", "--bundle") == "/b"
        assert option(["create", "--bundle=/b"], "-b", "--bundle") == "/b"
        assert option(["start", "x"], "-b", "--bundle") is None
