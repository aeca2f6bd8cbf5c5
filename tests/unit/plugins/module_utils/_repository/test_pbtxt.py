# SPDX-License-Identifier: GPL-3.0-or-later
"""The filler and the reader of config.pbtxt, held against protobuf itself."""

from __future__ import annotations

import math
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.pbtxt import (
    COMMENT,
    SCALAR,
    STRING,
    PbtxtError,
    fill,
    parse,
    placeholders,
    quote,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema_messages import ENUMS, MESSAGES, ROOT
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(tritonclient.__file__).parent / "grpc"))  # importable without the grpc package
import model_config_pb2

CONFIG = """
# A comment with ${commented} and a "quote
name: "tensorrt_llm"   # trailing
backend: '${triton_backend}'
max_batch_size: 64
model_transaction_policy { decoupled: True }
dynamic_batching {
  preferred_batch_size: [ 64, 0x10 ];
  max_queue_delay_microseconds: 100
  default_queue_policy: { max_queue_size: 0 },
}
input [
  { name: "input_ids", data_type: TYPE_INT32, dims: [ -1 ] reshape: { shape: [ ] } },
  < name: "a" 'b' data_type: 11 dims: -1 dims: 3 optional: t >
]
parameters: { key: "a" value: { string_value: "x \\"y\\" \\\\ \\n \\303\\251 ${left}" } }
parameters { key: "b" value { string_value: "" } }
instance_group [ { count: 1 kind : KIND_CPU } ]
optimization { cuda { graph_spec { graph_lower_bound { batch_size: 3 input { key: "i" value { dim: 7 } } } } } }
"""


def as_protobuf_reads(text: str) -> dict[str, Any]:
    """The configuration as protobuf reads it; raises `text_format.ParseError`."""
    message = text_format.Parse(text, model_config_pb2.ModelConfig())
    result: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return result


def without_defaults(value: Any, message: str = ROOT) -> Any:
    """Our value in protobuf's JSON form: 64-bit numbers as text, fields at their default left out."""
    result: dict[str, Any] = {}
    for name, item in value.items():
        kind = MESSAGES[message][name]

        def one(element: Any, kind: Any = kind) -> Any:
            if kind.type in MESSAGES:
                return without_defaults(element, kind.type)
            if kind.type == "float" and math.isinf(element):
                return "Infinity" if element > 0 else "-Infinity"
            return str(element) if kind.type in ("i64", "u64") else element

        if kind.key is not None:
            if item:
                result[name] = {str(key): one(element) for key, element in item.items()}
        elif kind.repeated:
            if item:
                result[name] = [one(element) for element in item]
        elif kind.is_message or kind.group or item != kind.default:
            result[name] = one(item)
    return result


def assert_read_as_protobuf_does(text: str) -> None:
    try:
        expected = as_protobuf_reads(text)
    except (text_format.ParseError, ValueError) as refusal:  # ValueError: an enum's number is no int32
        with pytest.raises(PbtxtError):
            pytest.fail(f"protobuf refuses ({refusal}) what was read as {parse(text).value}")
        return
    assert without_defaults(parse(text).value) == expected


def test_a_configuration_is_read_as_protobuf_reads_it() -> None:
    assert_read_as_protobuf_does(CONFIG)
    value = parse(CONFIG).value
    assert value["parameters"]["a"] == {"string_value": 'x "y" \\ \n é ${left}'}
    assert value["input"][1] == {"name": "ab", "data_type": "TYPE_FP32", "dims": [-1, 3], "optional": True}
    assert value["dynamic_batching"]["preferred_batch_size"] == [64, 16]


def test_the_place_of_each_field_is_known() -> None:
    document = parse(CONFIG)
    place = document.places["name"][0]
    assert CONFIG[place.start : place.end] == 'name: "tensorrt_llm"'
    assert CONFIG[place.value_start : place.value_end] == '"tensorrt_llm"'
    assert len(document.places["parameters"]) == 2
    assert CONFIG[slice(*document.places["model_transaction_policy"][0][:2])].endswith("{ decoupled: True }")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("max_batch_size: ${max_batch}", "line 1, column 17", "max_batch_size takes a whole number, found '$'"),
        ('name: "a"\nmax_batchsize: 1', "line 2, column 1", "did you mean 'max_batch_size'?"),
        ('name: "a', "line 1, column 7", "without its closing quote"),
        ('name: "a\nb"', "line 1, column 7", "without its closing quote"),
        ("name: a", "line 1, column 7", "name takes a quoted string, found 'a'"),
        ("name:", "line 1, column 6", "found the end of the file"),
        ("max_batch_size 3", "line 1, column 16", "expected ':' at max_batch_size"),
        ("max_batch_size: 3 max_batch_size: 4", "line 1, column 35", "max_batch_size is set twice"),
        ("max_batch_size: 4294967296", "line 1, column 17", "takes a number from -2147483648 to 2147483647"),
        ("max_batch_size: 1.5", "line 1, column 17", "takes a whole number, found '1.5'"),
        ("max_batch_size: [1]", "line 1, column 17", "takes a whole number, found '['"),
        ("model_transaction_policy { decoupled: yes }", "line 1, column 39", "takes true or false, found 'yes'"),
        ("model_transaction_policy {", "line 1, column 27", "is not closed; expected '}'"),
        ("model_transaction_policy { } model_transaction_policy { }", "line 1, column 55", "is set twice"),
        ("input { data_type: TYPE_FP33 }", "line 1, column 20", "input.data_type takes one of TYPE_INVALID"),
        ("input [ {}, ]", "line 1, column 13", "expected '{' at input"),
        ("input [ {} {} ]", "line 1, column 12", "expected ',' at input"),
        ("dynamic_batching {} ensemble_scheduling {}", "line 1, column 21", "cannot stand beside dynamic_batching"),
        ('name: "\\q"', "line 1, column 7", "unknown escape"),
        ('name: "\\777"', "line 1, column 7", "more than a byte"),
        ('parameters { key: "a" string_value: "b" }', "line 1, column 23", "'string_value' is not a field of param"),
        ("}", "line 1, column 1", "'}' is not a field of a model configuration"),
        ("metric_control: 1", "line 1, column 1", "did you mean"),
    ],
)
def test_a_mistake_is_located_and_named(text: str, where: str, what: str) -> None:
    with pytest.raises(PbtxtError) as refusal:
        parse(text)
    assert str(refusal.value).startswith(where) and what in str(refusal.value)


def test_placeholders_know_what_surrounds_them() -> None:
    text = 'name: "${a}_${b}" # ${c} "\nmax_batch_size: ${d} input { dims: [ ${e} ] }'
    assert [(p.name, p.context) for p in placeholders(text)] == [
        ("a", STRING), ("b", STRING), ("c", COMMENT), ("d", SCALAR), ("e", SCALAR),
    ]  # fmt: skip
    assert placeholders("name: '$a $${' # nothing") == []


def test_filling_leaves_what_is_not_given_and_escapes_in_strings_only() -> None:
    text = 'name: "${a}" max_batch_size: ${b} backend: "${c}"'
    assert fill(text, {"a": 'x"\\\n\x01é', "b": "8"}) == 'name: "x\\"\\\\\\n\\001é" max_batch_size: 8 backend: "${c}"'


@given(st.dictionaries(st.sampled_from("abcd"), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_in_a_string_is_read_back(values: dict[str, str]) -> None:
    text = 'name: "${a}" backend: "-${b}-" platform: "${c}${d}"'
    value = parse(fill(text, values)).value
    assert value["name"] == values.get("a", "${a}")
    assert value["backend"] == f"-{values.get('b', '${b}')}-"
    assert value["platform"] == values.get("c", "${c}") + values.get("d", "${d}")
    assert_read_as_protobuf_does(fill(text, values))


@given(st.dictionaries(st.sampled_from("abcd"), st.text(string.ascii_letters + string.digits + "/._-:, ;{}$")))
def test_filling_equals_plain_substitution_where_nothing_needs_an_escape(values: dict[str, str]) -> None:
    text = 'name: "${a}" # ${d}\nmax_batch_size: ${b} backend: "-${c}-${e}"'
    assert fill(text, values) == string.Template(text).safe_substitute(values)
    assert quote("/models/a b, c: {0, 1}") == "/models/a b, c: {0, 1}"


PIECES = st.sampled_from([
    "{", "}", "[", "]", "<", ">", ":", ",", ";", '"', "'", "#", "\n", " ", "1", "-1", "0x1F", "017", "08", "1.5", "3f",
    "-", "+1", "true", "False", "yes", "TYPE_INT32", "8", "99", "name", '"text"', "'x'", "$", "${a}", "KIND_CPU",
    "input", "dims", "parameters", "key", "value", "dynamic_batching", "ensemble_scheduling", "max_batch_size: 0",
    "reshape", "shape", "optional", "99999999999999999999", "-3000000000", "e", "\\", "\t", "é", "model_warmup",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_configuration_is_accepted_or_refused_as_by_protobuf(data: st.DataObject) -> None:
    """Cut, repeat and insert pieces anywhere."""
    text = CONFIG.replace("\\n", "")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.sampled_from([start, start, start + 1, start + 3, min(len(text), start + 25)]))
        text = text[:start] + data.draw(PIECES | st.just("") | st.just(text[start:end] * 2)) + text[end:]
    if "\\" in text.replace('\\"', "").replace("\\\\", "").replace("\\303\\251", ""):
        return  # an unknown escape, where Triton's C++ parser and Python's differ
    assert_read_as_protobuf_does(text)


PROTO_TYPES = {
    FieldDescriptor.TYPE_STRING: "str", FieldDescriptor.TYPE_BOOL: "bool", FieldDescriptor.TYPE_INT32: "i32",
    FieldDescriptor.TYPE_INT64: "i64", FieldDescriptor.TYPE_UINT32: "u32", FieldDescriptor.TYPE_UINT64: "u64",
    FieldDescriptor.TYPE_FLOAT: "float", FieldDescriptor.TYPE_DOUBLE: "float",
}  # fmt: skip


def compare_message(descriptor: Descriptor, name: str, seen: set[tuple[str, str]]) -> None:
    """Fields, types, repetition, oneofs and enum values of one message and of all that it holds."""
    if (descriptor.full_name, name) in seen:
        return
    seen.add((descriptor.full_name, name))
    ours = MESSAGES[name]
    assert list(ours) == [f.name for f in descriptor.fields], name
    groups = {f.name: f.containing_oneof.name for f in descriptor.fields if f.containing_oneof}
    for one in groups:
        for other in groups:
            assert (groups[one] == groups[other]) == (ours[one].group == ours[other].group), (name, one, other)
    for proto in descriptor.fields:
        kind = ours[proto.name]
        assert bool(kind.group) == (proto.name in groups)
        if proto.message_type is not None and proto.message_type.GetOptions().map_entry:
            compare_message(proto.message_type, kind.entry, seen)
            continue
        assert kind.key is None and kind.repeated == proto.is_repeated, (name, proto.name)
        if proto.message_type is not None:
            compare_message(proto.message_type, kind.type, seen)
        elif proto.enum_type is not None:
            assert [(v.name, v.number) for v in proto.enum_type.values] == [
                (value, number) for number, value in enumerate(ENUMS[kind.type])
            ]
        else:
            assert kind.type == PROTO_TYPES[proto.type], (name, proto.name)


def test_the_message_tables_are_those_of_tritonclient() -> None:
    seen: set[tuple[str, str]] = set()
    compare_message(model_config_pb2.ModelConfig.DESCRIPTOR, ROOT, seen)
    assert {name for _, name in seen} == set(MESSAGES)
