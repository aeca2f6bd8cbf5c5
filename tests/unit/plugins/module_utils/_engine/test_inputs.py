# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine is made from: everything that a tool reads counts, by its content, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import fingerprint, tree_digest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.read import is_read
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.inputs import Input, as_told_now, volumes
from unit.engine_fakes import FakeHost, arranged_host, write_checkpoint

AWQ = {"use_weight_only": True, "weight_only_precision": "int4_awq"}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return arranged_host(tmp_path, monkeypatch)


def mounted(host: FakeHost) -> list[str]:
    """The volumes of the last build."""
    words = host.calls("run", "--detach")[-1]
    return [word.split("=", 1)[1] for word in words if word.startswith("--volume=")]


def read_inside(mounts: list[str], path: str) -> bytes:
    """What a process in the container reads at *path*, link by link; of the host it sees the mounts alone."""
    places = {inside: source for source, inside in (volume.split(":")[:2] for volume in mounts)}

    def source_of(at: str) -> str:
        above = [place for place in places if f"{at}/".startswith(f"{place}/")]
        nearest = max(above, key=len, default=None)
        return places[nearest] + at[len(nearest) :] if nearest else "/nowhere"

    at, pending = "", path.split("/")
    while pending:
        part = pending.pop(0)
        if part == "..":
            at = os.path.dirname(at)
        elif part not in ("", "."):
            here = f"{at}/{part}"
            if here not in places and os.path.islink(source_of(here)):
                target = os.readlink(source_of(here))
                at = "" if target.startswith("/") else at
                pending = [*target.split("/"), *pending]
            else:
                at = here
    return Path(source_of(at)).read_bytes()


def download_cache(root: Path, files: Path) -> Path:
    """A snapshot of a hub's cache with the content of the directory *files*: links to ../../blobs."""
    blobs, snapshot = root / "blobs", root / "snapshots" / "r1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(files.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def adapter(root: Path, content: bytes = b"adapter") -> Path:
    root.mkdir(parents=True)
    (root / "adapter_model.safetensors").write_bytes(content)
    (root / "adapter_config.json").write_text("{}")
    return root


# -- what options name ---------------------------------------------------------------------------------------------


def test_a_directory_that_an_option_names_counts_by_its_content(host: FakeHost, tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    lora = {"lora_plugin": "auto", "lora_dir": [str(one)]}
    host.build(options=lora)
    assert f"{one}:{one}:ro" in mounted(host)
    assert not host.check(options={**lora, "lora_dir": [str(two)]})["changed"]
    (one / "adapter_model.safetensors").write_bytes(b"Adapter")
    (reason,) = host.check(options=lora)["reasons"]
    assert reason.startswith("lora_dir content: ")


def test_a_file_that_an_option_names_counts_by_its_content_and_nothing_beside_it(
    host: FakeHost, tmp_path: Path
) -> None:
    for name in ("one.npz", "two.npz", "again.npz"):
        (tmp_path / name).write_bytes(b"two" if name == "two.npz" else b"one")
    first = host.build(options={**AWQ, "quant_ckpt_path": str(tmp_path / "one.npz")})
    (tmp_path / "a.log").write_text("beside it")
    assert not host.check(options={**AWQ, "quant_ckpt_path": str(tmp_path / "one.npz")})["changed"]
    assert not host.check(options={**AWQ, "quant_ckpt_path": str(tmp_path / "again.npz")})["changed"]
    second = host.build(options={**AWQ, "quant_ckpt_path": str(tmp_path / "two.npz")})
    assert second["engine_dir"] != first["engine_dir"]
    (reason,) = second["reasons"]
    assert reason.startswith("quant_ckpt_path content: ")
    assert f"{tmp_path}/two.npz:{tmp_path}/two.npz:ro" in mounted(host)
    assert str(tmp_path) not in [volume.split(":")[0] for volume in mounted(host)], "not what stands beside it"


def test_each_file_of_a_list_counts(host: FakeHost, tmp_path: Path) -> None:
    for name in ("a.nemo", "b.nemo", "c.nemo"):
        (tmp_path / name).write_bytes(name.encode())
    lora = {"lora_plugin": "auto", "lora_ckpt_source": "nemo"}

    def check(*names: str) -> dict[str, Any]:
        return host.check(options={**lora, "lora_dir": [str(tmp_path / name) for name in names]})

    host.build(options={**lora, "lora_dir": [str(tmp_path / "a.nemo"), str(tmp_path / "b.nemo")]})
    assert not check("a.nemo", "b.nemo")["changed"]
    assert check("a.nemo", "c.nemo")["changed"]
    assert check("b.nemo", "a.nemo")["changed"], "their order is that of the adapters"


def test_a_data_set_counts_by_its_content_and_not_by_its_place(host: FakeHost, tmp_path: Path) -> None:
    for place in ("here", "there"):
        data = tmp_path / place / "cnn_dailymail"
        data.mkdir(parents=True)
        (data / "train.parquet").write_bytes(b"articles")
        (data / "README.md").write_text("configs: [train.parquet]")
    fp8 = {"qformat": "fp8", "calib_dataset": str(tmp_path / "here" / "cnn_dailymail")}
    shutil.copytree(host.home / "examples" / "models" / "core" / "llama", host.home / "examples" / "quantization")
    (host.home / "examples" / "quantization" / "convert_checkpoint.py").rename(
        host.home / "examples" / "quantization" / "quantize.py"
    )
    assert host.build(options=fp8)["changed"]
    assert "--network=none" in host.calls("run", "--detach")[-1]
    moved = {**fp8, "calib_dataset": str(tmp_path / "there" / "cnn_dailymail")}
    assert not host.check(options=moved)["changed"]
    (tmp_path / "there" / "cnn_dailymail" / "README.md").write_text("configs: []")
    (reason,) = host.check(options=moved)["reasons"]
    assert reason.startswith("calib_dataset content: "), "the loader of data sets reads its README.md"


def test_scripts_of_the_host_count_by_their_content(host: FakeHost) -> None:
    made = host.build()["engine_dir"]
    scripts = host.home / "examples" / "models" / "core" / "llama"
    (host.home / "examples" / "models" / "core" / "falcon").mkdir()
    (host.home / "examples" / "models" / "core" / "falcon" / "convert_checkpoint.py").touch()
    (scripts / "README.md").write_text("how to use it")
    assert host.check()["engine_dir"] == made
    assert not host.check()["changed"], "nothing that this engine's commands read has changed"
    (scripts / "convert_checkpoint.py").write_text("#!/bin/sh\nexit 1\n")
    (reason,) = host.check()["reasons"]
    assert reason.startswith("examples_dir content: ")


# -- what nobody reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "README.md", "README_zh.md", "LICENSE", "LICENSE.txt", "Notice", ".gitattributes", ".DS_Store", "._config.json",
        "model.safetensors.lock", ".huggingface/download/config.json.metadata", ".cache/huggingface/download/x",
        "__pycache__/tokenization_x.cpython-311.pyc", ".msc", "USE_POLICY.md",
    ],
)  # fmt: skip
def test_what_stands_beside_the_weights_and_is_not_read_changes_nothing(host: FakeHost, path: str) -> None:
    made = host.build()["engine_dir"]
    for content in ("added", "changed"):
        (host.checkpoint / path).parent.mkdir(parents=True, exist_ok=True)
        (host.checkpoint / path).write_text(content)
        again = host.check()
        assert (again["changed"], again["engine_dir"]) == (False, made), content


@pytest.mark.parametrize(
    "path",
    [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "qwen.tiktoken",
        "spiece.model", "chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja",
        "tokenization_qwen.py", "modeling_baichuan.py", "model.safetensors", "model.safetensors.index.json",
        "pytorch_model.bin", "consolidated.00.pth", "params.json", "hf_quant_config.json", "quantize_config.json",
        "adapter_config.json", "adapter_model.safetensors", "license_plates.txt", "readme.json", "lock", "x.nemo",
        "1_Pooling/config.json", "SimSun.ttf",
    ],
)  # fmt: skip
def test_what_a_tool_or_a_tokenizer_may_read_counts(path: str) -> None:
    assert is_read(path)


# -- links ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_a_download_cache_converts_through_any_link(host: FakeHost, tmp_path: Path) -> None:
    snapshot = download_cache(tmp_path / "hub" / "models--x", host.checkpoint)
    (tmp_path / "srv").mkdir()
    link = tmp_path / "srv" / "llama"
    link.symlink_to(snapshot)
    for number, path in enumerate((snapshot, link)):
        made = host.build(checkpoint=path, options={"max_batch_size": 16 + number})
        assert made["changed"]
        words = made["commands"][0]
        model = words[words.index("--model_dir") + 1]
        for name in ("config.json", "model.safetensors"):
            assert read_inside(mounted(host), f"{model}/{name}") == (host.checkpoint / name).read_bytes()
        assert all(v.endswith(":ro") for v in mounted(host) if str(tmp_path / "hub") in v)
    assert not host.check(options={"max_batch_size": 17})["changed"], "the same content at another path is the same"


def test_adapters_and_quantised_weights_in_a_download_cache_are_reached(host: FakeHost, tmp_path: Path) -> None:
    snapshot = download_cache(tmp_path / "hub" / "adapter", adapter(tmp_path / "files"))
    weights = tmp_path / "awq"
    weights.mkdir()
    (weights / "llama.npz").write_bytes(b"scales")
    quantised = download_cache(tmp_path / "hub" / "awq", weights) / "llama.npz"
    (tmp_path / "lora").symlink_to(snapshot)
    options = {**AWQ, "lora_plugin": "auto", "lora_dir": [str(tmp_path / "lora")], "quant_ckpt_path": str(quantised)}
    commands = [word for command in host.build(options=options)["commands"] for word in command]
    lora = commands[commands.index("--lora_dir") + 1]
    assert read_inside(mounted(host), f"{lora}/adapter_model.safetensors") == b"adapter"
    given = commands[commands.index("--quant_ckpt_path") + 1]
    assert given == str(quantised), "tools tell the format by the ending, which the blob does not have"
    assert read_inside(mounted(host), given) == b"scales"


def test_links_in_links_are_followed_and_circles_left_alone(tmp_path: Path) -> None:
    pool, tree, beside = tmp_path / "pool", tmp_path / "tree", tmp_path / "beside"
    for directory in (pool, tree, beside):
        directory.mkdir()
    (pool / "data").write_bytes(b"data")
    (beside / "hop").symlink_to(pool / "data")
    (beside / "deep").mkdir()
    (beside / "deep" / "own").symlink_to("../../pool/data")
    (tree / "weights").symlink_to("../beside/hop")
    (tree / "more").symlink_to(beside / "deep")
    (tree / "up").symlink_to("..")
    (tree / "self").symlink_to("self")
    (pool / "back").symlink_to(tree)
    (tree / "pool").symlink_to(pool)
    mounts = volumes([str(tree)])
    for path in ("weights", "more/own", "pool/data"):
        assert read_inside(mounts, f"{tree}/{path}") == b"data", path
    assert not [volume for volume in mounts if volume.startswith(f"{tmp_path}:")]


# -- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["rel/ative", "/a:b", "/a\nb", "/a/../b", "~/x"])
@pytest.mark.parametrize("option", ["root", "checkpoint", "examples_dir", "quant_ckpt_path", "lora_dir"])
def test_a_path_that_podman_would_read_otherwise_is_refused(host: FakeHost, option: str, bad: str) -> None:
    changes: dict[str, Any] = {
        "root": {"root": Path(bad)},
        "checkpoint": {"checkpoint": Path(bad)},
        "examples_dir": {"examples_dir": bad},
        "quant_ckpt_path": {"options": {**AWQ, "quant_ckpt_path": bad}},
        "lora_dir": {"options": {"lora_plugin": "auto", "lora_dir": ["/right", bad]}},
    }[option]
    with pytest.raises(FleetError, match=rf"^{option} is .*; it (takes|is mounted)"):
        host.engine(**changes)
    assert not (host.root / "engines").exists()


def test_a_link_to_where_no_mount_can_be_is_refused(host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    write_checkpoint(tmp_path / "a:b" / "tiny")
    (tmp_path / "link").symlink_to(tmp_path / "a:b" / "tiny")
    with pytest.raises(FleetError, match=r"^checkpoint is .*a:b/tiny'; it is mounted into containers, where ':' ends"):
        host.engine(checkpoint=tmp_path / "link")


def test_a_data_set_of_the_hub_is_no_path(host: FakeHost) -> None:
    assert host.engine(options={"qformat": "fp8", "calib_dataset": "abisee/cnn_dailymail"})
    with pytest.raises(FleetError, match=r"^calib_dataset is './data'; it takes an absolute path"):
        host.engine(options={"qformat": "fp8", "calib_dataset": "./data"})


def test_more_gpus_than_a_host_has_are_refused_at_once(host: FakeHost) -> None:
    with pytest.raises(FleetError, match="tp_size is 100000000; give a number from 1 to 64"):
        host.check(gpus=None, options={"tp_size": 10**8})


# -- engines of earlier versions -----------------------------------------------------------------------------------


def as_made_before(host: FakeHost, engine_dir: str, **changes: Any) -> Path:
    """The published engine as the first version of the collection left it: under its fingerprint, in its words."""
    path = Path(engine_dir)
    manifest = json.loads((path / "manifest.json").read_text())
    made_from = manifest["made_from"]
    tree = tree_digest(host.checkpoint, None, ignore={".git", ".cache"})
    made_from["checkpoint"] = {"digest": tree.digest, "files": tree.contents()}
    made_from["inputs"].pop("examples_dir")
    for part, values in changes.items():
        made_from[part] = values
    manifest["fingerprint"] = fingerprint({**made_from, "checkpoint": tree.digest})
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path.rename(path.with_name(manifest["fingerprint"]))


def test_an_engine_of_an_earlier_version_stays_as_long_as_its_inputs_do(host: FakeHost, tmp_path: Path) -> None:
    (host.checkpoint / "README.md").write_text("a model card")
    lora_dir = adapter(tmp_path / "lora")
    (lora_dir / "README.md").write_text("a model card")
    options = {"lora_plugin": "auto", "lora_dir": [str(lora_dir)]}
    old = as_made_before(
        host, host.build(options=options)["engine_dir"], inputs={"lora_dir": tree_digest(lora_dir, None).digest}
    )
    for again in (host.build(options=options), host.check(options=options)):
        assert (again["changed"], again["engine_dir"], again["fingerprint"]) == (False, str(old), old.name)
    (host.checkpoint / "README.md").write_text("another model card")
    assert not host.build(options=options, verify="full")["changed"]
    assert host.build(options={**options, "max_batch_size": 8})["reasons"] == ["max_batch_size: 4 -> 8"]
    (host.checkpoint / "tokenizer.json").write_text("[]")
    changed = host.build(options={**options, "max_batch_size": 8})
    assert changed["reasons"] == ["checkpoint: tokenizer.json content"]


def test_a_damaged_engine_of_an_earlier_version_is_made_again(host: FakeHost) -> None:
    (host.checkpoint / "README.md").write_text("a model card")
    old = as_made_before(host, host.build()["engine_dir"])
    assert not host.check()["changed"]
    (old / "rank0.engine").write_bytes(b"cut")
    again = host.build()
    assert again["changed"]
    assert Path(again["engine_dir"]).name == again["fingerprint"] != old.name


def test_a_quantised_file_that_an_earlier_version_never_looked_at_makes_the_engine_anew(
    host: FakeHost, tmp_path: Path
) -> None:
    weights = tmp_path / "q"
    weights.mkdir()
    (weights / "one.npz").write_bytes(b"one")
    options = {**AWQ, "quant_ckpt_path": str(weights / "one.npz")}
    made = host.build(options=options)["engine_dir"]
    as_made_before(host, made, inputs={"quant_ckpt_path": tree_digest(weights, None).digest})
    (reason,) = host.check(options=options)["reasons"]
    assert reason.startswith("quant_ckpt_path content: "), "which of the files beside it was used cannot be told"


@pytest.mark.parametrize(("scripts", "known"), [("/srv/examples", True), ("/app/examples", False)])
def test_what_an_earlier_version_recorded_is_told_in_todays_words(scripts: str, known: bool) -> None:
    manifest = {
        "made_from": {
            "checkpoint": {"digest": "1", "files": {"README.md": "2", "config.json": "3"}},
            "inputs": {"calib_dataset": "4"},
            "convert": {"quantization/quantize.py": {"qformat": "fp8", "calib_dataset": "/data/cnn_dailymail"}},
        },
        "commands": [["python3", f"{scripts}/quantization/quantize.py"], ["trtllm-build"]],
    }
    inputs = {"calib_dataset": Input("4", "4"), "examples_dir": Input("5", "5")}
    told = as_told_now(manifest, inputs, "/srv/examples")
    assert told is not None
    assert told["checkpoint"]["files"] == {"config.json": "3"}
    assert told["convert"] == {"quantization/quantize.py": {"qformat": "fp8"}}
    assert told["inputs"] == {"calib_dataset": "4", **({"examples_dir": "5"} if known else {})}
