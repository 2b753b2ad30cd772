"""What the service answers, as OpenAPI 3.1, and as a page that needs nothing from elsewhere."""

import html
import json
from typing import Any

from stages.inference.seen import NEAREST
from stages.serving.settings import Settings
from stages.store.exported import Exported

ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def describe(settings: Settings, exported: Exported) -> dict[str, Any]:
    """The OpenAPI document of the service over the model `exported`."""
    test = exported.judgement.test
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image classification",
            "version": "1",
            "description": (
                f"Tells which of {len(exported.classes)} classes an image shows. On {test.count:,} "
                f"test images {test.accuracy:.2%} were right (95 % interval "
                f"{test.accuracy_low:.2%} to {test.accuracy_high:.2%})."
            ),
        },
        "paths": {
            "/predict": {"post": _predict(settings, exported)},
            "/healthz": {"get": _get("Whether the process lives", "Health")},
            "/readyz": {"get": _get("Whether it takes requests; 503 while it stops", "Health")},
            "/metrics": {"get": _get("Figures for Prometheus, of all workers", "Health", TEXT)},
            "/openapi.json": {"get": _get("This description", "Description")},
            "/docs": {"get": _get("This description as a page", "Description", HTML)},
            "/v2": {"get": _get("Metadata of the server", OPEN)},
            "/v2/health/live": {"get": _get("Whether the process lives", OPEN)},
            "/v2/health/ready": {"get": _get("Whether it takes requests", OPEN)},
            "/v2/models/{model}": {"get": _of_model("Metadata of the model", settings)},
            "/v2/models/{model}/ready": {"get": _of_model("Whether it takes requests", settings)},
            "/v2/models/{model}/infer": {"post": _infer(settings, exported)},
        },
        "components": {"schemas": {"Error": ERROR, "Prediction": _prediction(exported)}},
    }


OPEN = "Open Inference Protocol"
JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
REFUSALS = {
    "400": "It is not as described here",
    "408": "It took too long to come",
    "413": "It is too large, or has too many images",
    "415": "It is of another media type",
    "503": "There is too much to do; Retry-After tells when to try again",
}


def _answers(content: dict[str, Any], refusals: tuple[str, ...]) -> dict[str, Any]:
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "The answer", "content": content},
        **{status: {"description": REFUSALS[status], "content": error} for status in refusals},
    }


def _get(summary: str, tag: str, kind: str = JSON) -> dict[str, Any]:
    return {"summary": summary, "tags": [tag], "responses": _answers({kind: {}}, ())}


def _of_model(summary: str, settings: Settings) -> dict[str, Any]:
    return _get(summary, OPEN) | {"parameters": [_model(settings)]}


def _model(settings: Settings) -> dict[str, Any]:
    schema = {"type": "string", "const": settings.name}
    return {"name": "model", "in": "path", "required": True, "schema": schema}


def _predict(settings: Settings, exported: Exported) -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "image/*"}
    many = {"type": "array", "maxItems": settings.images}
    encoded = {"type": "string", "contentEncoding": "base64"}
    found = {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
        },
        "required": ["predictions"],
    }
    answers = _answers({JSON: {"schema": found}}, tuple(REFUSALS))
    answers["422"] = {
        "description": "No image could be read; why, is told of each",
        "content": {JSON: {"schema": {"allOf": [{"$ref": "#/components/schemas/Error"}, found]}}},
    }
    return {
        "summary": "Classify image files",
        "description": (
            f"Up to {settings.images} files, {settings.request_bytes:,} bytes in all, "
            f"{settings.pixels:,} pixels each. Files that cannot be read have an `error` in their "
            "place; the others are answered."
        ),
        "tags": ["Images"],
        "parameters": [
            {
                "name": "top_k",
                "in": "query",
                "description": "How many classes are named, the most probable first",
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "default": min(exported.judgement.top_k, len(exported.classes)),
                },
            },
            {
                "name": "heat",
                "in": "query",
                "description": "Whether to tell where in the image the class is seen",
                "schema": {"type": "boolean", "default": False},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": many | {"items": image}}}
                },
                "image/*": {"schema": image},
                JSON: {
                    "schema": {
                        "type": "object",
                        "properties": {"images": many | {"items": encoded}},
                        "required": ["images"],
                        "additionalProperties": False,
                    }
                },
            },
        },
        "responses": answers,
    }


def _infer(settings: Settings, exported: Exported) -> dict[str, Any]:
    schema = {"type": "object", "required": ["inputs"]}
    return {
        "summary": "Run the model on tensors",
        "description": (
            f"One input, images: UINT8 {[-1, *exported.preprocess.shape]}, pixels made as the "
            "README of the model's folder tells, or BYTES [-1], image files (base64 in JSON). With "
            "the extension for binary tensors."
        ),
        "tags": [OPEN],
        "parameters": [_model(settings)],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": schema}, "application/octet-stream": {}},
        },
        "responses": _answers({JSON: {}}, ("400", "408", "413", "503")),
    }


def _prediction(exported: Exported) -> dict[str, Any]:
    name = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "file": {"type": ["string", "null"], "description": "The name it was sent by"},
            "classes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": name, "probability": PROBABILITY},
                    "required": ["name", "probability"],
                },
            },
            "set": {
                "type": ["array", "null"],
                "items": name,
                "description": "The classes that it may be, so that the right one is among them "
                "as often as evaluate.coverage says",
            },
            "unlike": {
                "type": ["boolean", "null"],
                "description": "Whether it is unlike the training images",
            },
            "distance": {"type": ["number", "null"], "description": "To the nearest of them"},
            "nearest": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "maxItems": NEAREST,
                "description": "Which of them are the nearest, the nearest first",
            },
            "heat": {
                "type": ["array", "null"],
                "items": {"type": "array", "items": PROBABILITY},
                "description": "If asked for: how much each part of the image that the model sees "
                f"speaks for the first class, in rows{_size(exported)}; null where the model "
                "cannot tell",
            },
            "error": {"type": "string", "description": "Why there is none of this but `file`"},
        },
        "required": ["file"],
    }


def _size(exported: Exported) -> str:
    heat = exported.sizes.heat
    return f", {heat[0]} x {heat[1]}" if heat else ""


STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto; padding: .75rem; border: 1px solid }
h3 code { font-size: 1rem }
"""


def page(document: dict[str, Any]) -> str:
    """The OpenAPI `document` for people."""
    sections: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sections.setdefault(operation["tags"][0], []).append(_section(path, method, operation))
    info = document["info"]
    body = "".join(
        f"<h2>{html.escape(tag)}</h2>{''.join(parts)}" for tag, parts in sections.items()
    )
    shapes = "".join(
        f"<h3>{html.escape(name)}</h3>{_json(schema)}"
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(info['title'])}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(info['title'])}</h1><p>{html.escape(info['description'])}</p>"
        "<pre>curl -F file=@photo.jpg http://127.0.0.1:8000/predict</pre>"
        '<p><a href="openapi.json">OpenAPI 3.1</a></p>'
        f"{body}<h2>Schemas</h2>{shapes}</html>"
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    statuses = "".join(
        f"<li>{status}: {html.escape(answer['description'])}</li>"
        for status, answer in operation["responses"].items()
    )
    details = {key: operation[key] for key in ("parameters", "requestBody") if key in operation}
    return (
        f"<section><h3><code>{method.upper()} {html.escape(path)}</code></h3>"
        f"<p>{html.escape(operation['summary'])}. {html.escape(operation.get('description', ''))}"
        f"</p><ul>{statuses}</ul>{_json(details) if details else ''}</section>"
    )


def _json(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
