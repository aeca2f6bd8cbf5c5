# SPDX-License-Identifier: GPL-3.0-or-later
"""convert_checkpoint.py and trtllm-build of the CPU image, as they are called."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tensorrt_llm.safetensors_file import SafetensorsFile
from triton_cpu_fakes import checkpoint, make_engine, run_build, run_convert


def converted(tmp_path: Path, *options: object) -> Path:
    out = tmp_path / "converted"
    status, text = run_convert("--model_dir", checkpoint("gqa", tmp_path / "m"), "--output_dir", out, *options)
    assert status == 0, text
    return out


def test_a_converted_checkpoint_has_upstreams_shape(tmp_path: Path) -> None:
    out = converted(tmp_path, "--tp_size", 2, "--workers", 2, "--dtype", "bfloat16")
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "rank0.safetensors", "rank1.safetensors"]
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "LlamaForCausalLM"
    assert (config["dtype"], config["vocab_size"], config["num_key_value_heads"]) == ("bfloat16", 97, 2)
    mapping = config["mapping"]
    assert (mapping["world_size"], mapping["tp_size"], mapping["pp_size"], mapping["cp_size"]) == (2, 2, 1, 1)
    assert config["quantization"]["quant_algo"] is None
    rank = SafetensorsFile(out / "rank1.safetensors")
    assert rank["transformer.layers.0.attention.qkv.weight"].shape == ((32 + 2 * 16) // 2, 32)
    assert rank["transformer.layers.0.attention.dense.weight"].shape == (32, 16)
    assert rank["transformer.layers.1.mlp.fc.weight"].shape == (24, 32)
    assert rank["transformer.layers.1.mlp.proj.weight"].shape == (32, 24)
    assert rank["lm_head.weight"].shape == (49, 32)
    assert rank["transformer.vocab_embedding.weight"].shape == (97, 32)
    assert {rank[name].dtype for name in rank.names()} == {"BF16"}


def test_the_type_auto_turns_float32_into_float16(tmp_path: Path) -> None:
    assert json.loads((converted(tmp_path) / "config.json").read_text())["dtype"] == "float16"


def test_quantised_weights_are_stored_small(tmp_path: Path) -> None:
    plain = (converted(tmp_path / "p") / "rank0.safetensors").stat().st_size
    for precision, algorithm in (("int8", "W8A16"), ("int4", "W4A16")):
        out = converted(tmp_path / precision, "--use_weight_only", "--weight_only_precision", precision)
        assert json.loads((out / "config.json").read_text())["quantization"]["quant_algo"] == algorithm
        assert (out / "rank0.safetensors").stat().st_size < plain
        plain = (out / "rank0.safetensors").stat().st_size


def test_configuration_alone(tmp_path: Path) -> None:
    out = converted(tmp_path, "--save_config_only")
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_an_engine_directory_has_upstreams_shape(tmp_path: Path) -> None:
    engine = make_engine(
        "gqa", tmp_path, converting=("--tp_size", 2), gemm_plugin="auto", gather_all_token_logits=True,
        kv_cache_type="PAGED", workers=2, lora_plugin="disable", context_fmha="disable", max_num_tokens=512,
    )  # fmt: skip
    assert sorted(path.name for path in engine.iterdir()) == ["config.json", "rank0.engine", "rank1.engine"]
    config = json.loads((engine / "config.json").read_text())
    assert sorted(config) == ["build_config", "pretrained_config", "version"]
    assert config["version"] == "1.2.1"
    assert config["pretrained_config"]["mapping"]["tp_size"] == 2
    build = config["build_config"]
    assert (build["max_batch_size"], build["max_input_len"], build["max_seq_len"]) == (4, 128, 256)
    assert (build["max_beam_width"], build["max_num_tokens"], build["kv_cache_type"]) == (1, 512, "PAGED")
    assert build["gather_context_logits"] is build["gather_generation_logits"] is True
    plugins = build["plugin_config"]
    assert (plugins["gemm_plugin"], plugins["lora_plugin"], plugins["context_fmha"]) == ("float32", None, False)
    assert plugins["tokens_per_block"] == 32
    assert not {"checkpoint_dir", "output_dir", "workers"} & set(build)


def test_limits_follow_the_model_where_they_are_not_given(tmp_path: Path) -> None:
    status, text = run_build("--checkpoint_dir", converted(tmp_path), "--output_dir", tmp_path / "e")
    assert status == 0
    build = json.loads((tmp_path / "e/config.json").read_text())["build_config"]
    assert (build["max_seq_len"], build["max_input_len"], build["max_batch_size"]) == (256, 256, 2048)
    assert "max_seq_len is not specified, using deduced value 256" in text
    assert "Total time of building all engines:" in text


def test_a_build_configuration_file_gives_defaults(tmp_path: Path) -> None:
    recorded = json.loads((make_engine("gqa", tmp_path, max_batch_size=7) / "config.json").read_text())["build_config"]
    (tmp_path / "build.json").write_text(json.dumps(recorded))
    status, text = run_build(
        "--checkpoint_dir", tmp_path / "converted", "--output_dir", tmp_path / "e2", "--build_config",
        tmp_path / "build.json", "--max_seq_len", 200,
    )  # fmt: skip
    assert status == 0, text
    again = json.loads((tmp_path / "e2/config.json").read_text())["build_config"]
    assert again.pop("max_seq_len") == 200
    recorded.pop("max_seq_len")
    assert again == recorded


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    status, _ = run_build("--checkpoint_dir", converted(tmp_path), "--output_dir", tmp_path / "e", "--dry_run")
    assert status == 0
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--tp_size", 3), "4 attention heads cannot be split over tp_size 3"),
        (("--tp_size", 8), "4 attention heads cannot be split over tp_size 8"),
        (("--pp_size", 4), "2 layers cannot be split evenly over pp_size 4"),
        (("--tp_size", 0), "--tp_size is 0"),
        (("--cp_size", 2), "context parallelism is not implemented"),
        (("--smoothquant", 0.5), "SmoothQuant is not implemented"),
        (("--use_fp8",), "FP8 is not implemented"),
        (("--moe_num_experts", 8), "mixtures of experts"),
        (("--use_weight_only", "--weight_only_precision", "int4_awq"), "int4_awq is not implemented"),
    ],
)
def test_conversions_that_cannot_be_done_are_refused(tmp_path: Path, options: tuple[object, ...], text: str) -> None:
    out = tmp_path / "c"
    status, said = run_convert("--model_dir", checkpoint("gqa", tmp_path / "m"), "--output_dir", out, *options)
    assert status == 1
    assert re.search(rf"\[TRT-LLM\] \[E\] .*{re.escape(text)}", said)
    assert not out.exists()


def test_builds_that_cannot_be_done_are_refused(tmp_path: Path) -> None:
    checkpoint_dir = converted(tmp_path, "--tp_size", 2)
    for options, text in (
        ((), "--checkpoint_dir is missing"),
        (("--checkpoint_dir", tmp_path / "nowhere"), "nowhere/config.json does not exist"),
        (("--checkpoint_dir", checkpoint_dir, "--max_batch_size", 0), "--max_batch_size is 0"),
        (("--checkpoint_dir", checkpoint_dir, "--tokens_per_block", 24), "expected a power of two"),
        (("--checkpoint_dir", checkpoint_dir, "--model_cls_file", "x.py"), "load foreign code"),
    ):
        status, said = run_build("--output_dir", tmp_path / "e", *options)
        assert status == 1
        assert text in said
    (checkpoint_dir / "rank1.safetensors").unlink()
    status, said = run_build("--output_dir", tmp_path / "e", "--checkpoint_dir", checkpoint_dir)
    assert status == 1
    assert "lacks rank1.safetensors of its 2 ranks" in said


def test_a_shard_that_is_missing_or_a_pointer_stops_the_conversion(tmp_path: Path) -> None:
    model = checkpoint("gqa", tmp_path / "m")
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    status, said = run_convert("--model_dir", model, "--output_dir", tmp_path / "c")
    assert status == 1
    assert "git-lfs pointer" in said
    assert not (tmp_path / "c/config.json").exists()


@pytest.mark.parametrize("run", [run_convert, run_build])
def test_unknown_options_are_argparses_errors(run: object) -> None:
    for option in ("--auto_parallel", "--gpus_per_node", "--cluster_key", "--max_output_len", "--no_such_thing"):
        status, said = run(option, "1")  # type: ignore[operator]
        assert status == 2
        assert f"unrecognized arguments: {option}" in said


def test_values_outside_the_choices_are_argparses_errors(tmp_path: Path) -> None:
    for option, value in (
        ("--gemm_plugin", "enable"), ("--context_fmha", "true"), ("--kv_cache_type", "huge"),
        ("--logits_dtype", "int8"), ("--max_batch_size", "many"), ("--log_level", "loud"),
    ):  # fmt: skip
        status, said = run_build(option, value)
        assert status == 2
        assert f"argument {option}: invalid" in said


def test_tests_may_slow_a_build_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_CPU_BUILD_SECONDS", "0.3")
    started = time.monotonic()
    out = converted(tmp_path)
    middle = time.monotonic()
    status, _ = run_build("--checkpoint_dir", out, "--output_dir", tmp_path / "e")
    assert status == 0
    assert middle - started > 0.29
    assert time.monotonic() - middle > 0.29
