"""A trained model for other runtimes: the graph that evaluate runs, as ONNX or LiteRT.

The same model gives the same bytes, in a process of its own: converters number what they make, so
that a second conversion in one process differs.
"""

import copy
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from stages.inference.fold import folded
from stages.inference.parity import Turn, turn
from stages.inference.probabilities import graph_of
from stages.inference.seen import Sizes
from stages.parameters.export import Format
from stages.store.model import load_model, load_reference

Graph = Any  # what tf.function gives

OPSET = 18  # of ONNX: what onnxruntime knows since 1.14 (2023)


def convert(format: Format, model: Path, tta: str, images: np.ndarray, target: Path) -> Sizes:
    """Write the file `target`: what the file `model` computes with `tta` (stages/evaluate.py).

    `images` uint8 (n, h, w, c) are training images, by which `litert_int8` finds its ranges.
    Returns how much comes out of an image. Raises nearly anything where a converter fails.
    """
    graph = _constant(_graph(model, tta))
    content = _onnx(graph) if format == "onnx" else _litert(format, graph, images)
    target.write_bytes(content)
    outputs = graph.get_concrete_function().structured_outputs
    heat = tuple(outputs["heat"].shape[1:]) if "heat" in outputs else None
    return Sizes(outputs["features"].shape[-1], heat)


def keras_turn(model: Path, tta: str, images: np.ndarray) -> Turn:
    """How long the Keras model in the file `model` takes for what `convert` makes of it."""
    graph = _graph(model, tta)
    return turn(lambda some: graph(some)["probabilities"].numpy(), images)


@lru_cache(1)
def _graph(model: Path, tta: str) -> Graph:
    """What evaluate computes with the file `model`; loaded once in a process."""
    net, _ = load_model(model)
    reference = load_reference(model)
    return graph_of(folded(net), tta, reference.trained if reference else None, heat=True)


def _constant(graph: Graph) -> Graph:
    """The same function with all that it knows inside: converters would make variables and
    tensors from outside further inputs, or compute on their shapes and layouts at run time."""
    concrete = graph.get_concrete_function()
    names = sorted(concrete.structured_outputs)  # the order in which a function gives a dict
    frozen = convert_variables_to_constants_v2(concrete)
    definition = frozen.graph.as_graph_def()
    outside = {inner.op.name: outer for outer, inner in frozen.graph.captures}
    for node in definition.node:
        if node.name in outside:
            value = tf.make_tensor_proto(outside[node.name])
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = value.dtype
            node.attr["value"].tensor.CopyFrom(value)
    places = [one.name for one in frozen.outputs]

    def same(images: tf.Tensor) -> dict[str, tf.Tensor]:
        found = tf.graph_util.import_graph_def(definition, {"images": images}, places, name="")
        return dict(zip(names, found, strict=True))

    return tf.function(same, graph.input_signature, autograph=False)


def _onnx(graph: Graph) -> bytes:
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(graph, graph.input_signature, opset=OPSET)
    name_by_content(model.graph)
    return model.SerializeToString(deterministic=True)


def name_by_content(graph: Any) -> None:
    """Name the constants of the ONNX `graph` after their values, and its nodes after what they
    compute of which others; put both in an order that follows from that. The unknown size is that
    of the batch, wherever it stands.

    tf2onnx unites what is there twice, and which of the names stays is another on every run.
    """
    for value in [*graph.input, *graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = "batch"
    outputs = {one.name for one in graph.output}
    names = {one.name: one.name for one in graph.input} | {"": ""}  # an input may be left out
    depth = dict.fromkeys(names.values(), 0)

    def digest(*parts: str | bytes) -> str:
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    constants = {}
    for one in graph.initializer:
        before, one.name = one.name, ""
        content = one.SerializeToString(deterministic=True)
        one.name = names[before] = hashlib.sha256(content).hexdigest()[:16]
        constants[one.name], depth[one.name] = one, 0
    nodes = {}
    for node in graph.node:  # each comes after those whose outputs it takes
        takes = [names[name] for name in node.input]
        attributes = sorted(one.SerializeToString(deterministic=True) for one in node.attribute)
        node.name = digest(node.domain, node.op_type, *takes, *attributes)
        gives = [
            name if name in outputs else name and f"{node.name}:{place}"
            for place, name in enumerate(node.output)
        ]
        names |= zip(node.output, gives, strict=True)
        level = 1 + max((depth[name] for name in takes), default=0)
        depth |= dict.fromkeys(gives, level)
        for field, values in ((node.input, takes), (node.output, gives)):
            del field[:]
            field.extend(values)
        nodes[level, node.name, *gives] = node
    for field, values in (
        (graph.initializer, [constants[name] for name in sorted(constants)]),
        (graph.node, [nodes[place] for place in sorted(nodes)]),
    ):
        copies = copy.deepcopy(values)  # what is deleted is gone
        del field[:]
        field.extend(copies)
    del graph.value_info[:]  # shapes of tensors by their earlier names


def _litert(format: Format, graph: Graph, images: np.ndarray) -> bytes:
    module = tf.Module()
    module.graph = graph  # whose input and outputs then have names
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()], module
    )
    if format == "litert":
        return converter.convert()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format == "litert_float16":
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()

    def samples() -> Iterator[list[np.ndarray]]:
        for at in range(len(images)):
            yield [images[at : at + 1]]

    converter.representative_dataset = samples
    # The converter quantises a whole graph; only its debugger can leave out a part of it.
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=samples)
    debugger.options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=_decision(debugger.calibrated_model)
    )
    return _without_rounding(debugger.get_nondebug_quantized_model())


KERNELS = {"FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D"}


def _decision(model: bytes) -> list[str]:
    """Names of what the LiteRT `model` computes of the features: distances and probabilities.

    They stay in float. It is little work, and in 8 bits a distance has steps as large as the
    threshold of what is unlike the training images, and a probability steps of 1/256. Measured
    on a net for 10 classes: in 8 bits the nearest training image is another one for half of the
    images, in float for none.
    """
    interpreter = Interpreter(model_content=model)
    outputs = interpreter.get_signature_runner().get_output_details()
    operations = interpreter._get_ops_details()
    known, found = {int(outputs["features"]["index"])}, set()
    for operation in operations:  # in the order in which they run
        if known & set(operation["inputs"].tolist()):
            known.update(operation["outputs"].tolist())
            found.update(operation["outputs"].tolist())
    # Other views of the image have features of their own.
    makers = {index: each for each in operations for index in each["outputs"].tolist()}
    waiting = [int(outputs["probabilities"]["index"])]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker:
            found.update(maker["outputs"].tolist())
            if maker["op_name"] not in KERNELS:
                waiting += maker["inputs"].tolist()
    names = {each["index"]: each["name"] for each in interpreter.get_tensor_details()}
    return [names[index] for index in sorted(found)]


def _without_rounding(model: bytes) -> bytes:
    """The LiteRT `model` without numbers made 8 bits and float again at once.

    The converter leaves these after the softmax of each view (evaluate.tta): a class of
    probability 0.001 would be impossible in the mean of logarithms.
    """
    net = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    for graph in net.subgraphs:
        kind = {
            id(one): flatbuffer_utils.opcode_to_name(net, one.opcodeIndex)
            for one in graph.operators
        }
        before = {
            one.outputs[0]: one.inputs[0] for one in graph.operators if kind[id(one)] == "QUANTIZE"
        }
        same = {
            one.outputs[0]: before[one.inputs[0]]
            for one in graph.operators
            if kind[id(one)] == "DEQUANTIZE" and one.inputs[0] in before
        }
        graph.operators = [one for one in graph.operators if one.outputs[0] not in same]
        used = {index for one in graph.operators for index in one.inputs}
        graph.operators = [
            one for one in graph.operators if kind[id(one)] != "QUANTIZE" or one.outputs[0] in used
        ]
        for one in graph.operators:
            one.inputs = [same.get(index, index) for index in one.inputs]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(net))
