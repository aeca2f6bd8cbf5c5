# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of Triton's model configuration (``inference.ModelConfig``), as data.

Hosts have no protobuf package, yet a config.pbtxt has to be judged there: field names, types and enum values are
all that takes. A contract test holds these tables against tritonclient's own descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROOT = "ModelConfig"

# One line per message: ``name: field type, field type, ...``. A type is str, bool, i32, i64, u32, u64, float, an
# enum, a message or map<key,value>; ``*`` marks a repeated field and ``@group`` a member of that oneof.
_MESSAGES = """
ModelConfig: name str, platform str, backend str, runtime str, version_policy ModelVersionPolicy, max_batch_size i32, \
input ModelInput*, output ModelOutput*, batch_input BatchInput*, batch_output BatchOutput*, \
optimization Optimization, dynamic_batching DynamicBatching@scheduling, sequence_batching SequenceBatching@scheduling, \
ensemble_scheduling Ensembling@scheduling, instance_group InstanceGroup*, default_model_filename str, \
cc_model_filenames map<str;str>, metric_tags map<str;str>, parameters map<str;ModelParameter>, model_warmup Warmup*, \
model_operations Operations, model_transaction_policy TransactionPolicy, model_repository_agents Agents, \
response_cache Enabled, model_metrics Metrics
ModelVersionPolicy: latest Latest@policy, all Empty@policy, specific Specific@policy
Latest: num_versions u32
Empty:
Specific: versions i64*
ModelInput: name str, data_type DataType, format Format, dims i64*, reshape Reshape, is_shape_tensor bool, \
allow_ragged_batch bool, optional bool, is_non_linear_format_io bool
Reshape: shape i64*
ModelOutput: name str, data_type DataType, dims i64*, reshape Reshape, label_filename str, is_shape_tensor bool, \
is_non_linear_format_io bool
BatchInput: kind BatchInputKind, target_name str*, data_type DataType, source_input str*
BatchOutput: target_name str*, kind BatchOutputKind, source_input str*
Optimization: graph Graph, priority Priority, cuda Cuda, execution_accelerators Accelerators, \
input_pinned_memory Enabled, output_pinned_memory Enabled, gather_kernel_buffer_threshold u32, eager_batching bool
Graph: level i32
Cuda: graphs bool, busy_wait_events bool, graph_spec GraphSpec*, output_copy_stream bool
GraphSpec: batch_size i32, input map<str;Shape>, graph_lower_bound LowerBound
Shape: dim i64*
LowerBound: batch_size i32, input map<str;Shape>
Accelerators: gpu_execution_accelerator Accelerator*, cpu_execution_accelerator Accelerator*
Accelerator: name str, parameters map<str;str>
Enabled: enable bool
DynamicBatching: preferred_batch_size i32*, max_queue_delay_microseconds u64, preserve_ordering bool, \
priority_levels u64, default_priority_level u64, default_queue_policy QueuePolicy, \
priority_queue_policy map<u64;QueuePolicy>
QueuePolicy: timeout_action TimeoutAction, default_timeout_microseconds u64, allow_timeout_override bool, \
max_queue_size u32
SequenceBatching: direct Direct@strategy, oldest Oldest@strategy, max_sequence_idle_microseconds u64, \
control_input ControlInput*, state State*, iterative_sequence bool
Direct: max_queue_delay_microseconds u64, minimum_slot_utilization float
Oldest: max_candidate_sequences i32, preferred_batch_size i32*, max_queue_delay_microseconds u64, \
preserve_ordering bool
ControlInput: name str, control Control*
Control: kind ControlKind, int32_false_true i32*, fp32_false_true float*, bool_false_true bool*, data_type DataType
State: input_name str, output_name str, data_type DataType, dims i64*, initial_state InitialState*, \
use_same_buffer_for_input_output bool, use_growable_memory bool
InitialState: data_type DataType, dims i64*, zero_data bool@data, data_file str@data, name str
Ensembling: step Step*, max_inflight_requests u32
Step: model_name str, model_version i64, input_map map<str;str>, output_map map<str;str>, model_namespace str
InstanceGroup: name str, kind InstanceKind, count i32, rate_limiter RateLimiter, gpus i32*, \
secondary_devices SecondaryDevice*, profile str*, passive bool, host_policy str
RateLimiter: resources Resource*, priority u32
Resource: name str, global bool, count u32
SecondaryDevice: kind SecondaryDeviceKind, device_id i64
ModelParameter: string_value str
Warmup: name str, batch_size u32, inputs map<str;WarmupInput>, count u32
WarmupInput: data_type DataType, dims i64*, zero_data bool@data, random_data bool@data, input_data_file str@data
Operations: op_library_filename str*
TransactionPolicy: decoupled bool
Agents: agents Accelerator*
Metrics: metric_control MetricControl*
MetricControl: metric_identifier MetricIdentifier, histogram_options HistogramOptions@options
MetricIdentifier: family str
HistogramOptions: buckets float*
"""

# Values are numbered from 0.
ENUMS: dict[str, tuple[str, ...]] = {
    "DataType": (
        "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
        "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
    ),
    "Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "BatchInputKind": (
        "BATCH_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", "BATCH_ITEM_SHAPE", "BATCH_ITEM_SHAPE_FLATTEN",
    ),
    "BatchOutputKind": ("BATCH_SCATTER_WITH_INPUT_SHAPE",),
    "Priority": ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
    "TimeoutAction": ("REJECT", "DELAY"),
    "ControlKind": (
        "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID",
    ),
    "InstanceKind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    "SecondaryDeviceKind": ("KIND_NVDLA",),
}  # fmt: skip

SCALARS = frozenset({"str", "bool", "i32", "i64", "u32", "u64", "float"})


@dataclass(frozen=True)
class FieldType:
    """The type of one field. *key* is set for maps only; *group* names the oneof it belongs to."""

    type: str
    repeated: bool = False
    key: str | None = None
    group: str | None = None

    @property
    def is_message(self) -> bool:
        """Whether values are written in braces."""
        return self.key is not None or (self.type not in SCALARS and self.type not in ENUMS)

    @property
    def entry(self) -> str:
        """The name of the message that an entry of this map is."""
        return f"map<{self.key};{self.type}>"

    @property
    def default(self) -> Any:
        """What protobuf takes the field for when it is not set."""
        if self.is_message:
            return {}
        return ENUMS[self.type][0] if self.type in ENUMS else {"str": "", "bool": False}.get(self.type, 0)


def _field(text: str) -> tuple[str, FieldType]:
    name, spelled = text.split()
    spelled, _, group = spelled.partition("@")
    repeated = spelled.endswith("*")
    spelled = spelled.rstrip("*")
    if spelled.startswith("map<"):
        key, value = spelled[4:-1].split(";")
        return name, FieldType(value, True, key)
    return name, FieldType(spelled, repeated, None, group or None)


def _message(line: str) -> tuple[str, dict[str, FieldType]]:
    name, _, fields = line.partition(":")
    return name, dict(_field(field) for field in fields.split(",") if field.strip())


def _with_map_entries(messages: dict[str, dict[str, FieldType]]) -> dict[str, dict[str, FieldType]]:
    """Add, for each kind of map, the message that one of its entries is."""
    kinds = {field for fields in messages.values() for field in fields.values() if field.key is not None}
    entries = {kind.entry: {"key": FieldType(str(kind.key)), "value": FieldType(kind.type)} for kind in kinds}
    return {**messages, **entries}


MESSAGES = _with_map_entries(dict(_message(line) for line in _MESSAGES.strip().splitlines()))
