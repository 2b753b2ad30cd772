"""The layers of a model as a table."""

import keras


def layer_table(model: keras.Model) -> list[dict]:
    """One row a layer in order, layers of nested models below theirs.

    `depth` counts the models around the layer; `shape` is the output's, without the batch.
    """
    return list(_rows(model, 0))


def _rows(model: keras.Model, depth: int):
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        try:
            shape = [list(output.shape[1:]) for output in keras.tree.flatten(layer.output)]
        except (AttributeError, ValueError):  # called more than once, or on nothing symbolic
            shape = []
        yield {
            "depth": depth,
            "name": layer.name,
            "type": type(layer).__name__,
            "shape": shape[0] if len(shape) == 1 else shape,
            "parameters": layer.count_params(),
        }
        if isinstance(layer, keras.Model):
            yield from _rows(layer, depth + 1)
