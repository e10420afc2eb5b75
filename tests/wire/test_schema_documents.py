"""The OpenRPC documents say what the code does: each example is valid, and the files are those that the code makes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import jsonschema
import pytest

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.events import EVENT_TYPES
from ally_plugins.wire.codes import CODES
from ally_plugins.wire.methods import COMMON_ERRORS, METHODS, read_host_params, read_initialize_result, read_params
from ally_plugins.wire.samples import SAMPLES
from ally_plugins.wire.schema import ERROR_DESCRIPTIONS, components, openrpc, result_schema

if TYPE_CHECKING:
    from ally_plugins.wire.methods import Method

DOCS = Path(__file__).parents[2] / "docs"
SERVERS: tuple[Literal["host", "daemon"], ...] = ("host", "daemon")

each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.sender}-{method.name}")


def _check(schema: dict[str, Any], value: Any) -> None:
    whole = decode(encode({**schema, "components": {"schemas": components()}}))
    jsonschema.Draft202012Validator.check_schema(whole)
    jsonschema.Draft202012Validator(whole).validate(decode(encode(value)))


def test_the_files_are_those_that_the_code_makes() -> None:
    for cls in EVENT_TYPES.values():
        attrs.resolve_types(cls)  # as others may have done before
    spec = importlib.util.spec_from_file_location("write_openrpc", DOCS / "_ext" / "write_openrpc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.texts().items():
        kept = (DOCS / "reference" / name).read_text(encoding="utf-8")
        assert kept == text, f"{name} is not current; write it anew: python docs/_ext/write_openrpc.py"


@each_method
def test_the_params_of_each_example_are_read_and_fit_their_schema(method: Method) -> None:
    sample = decode(encode(dict(SAMPLES[method.sender][method.name].params)))
    read = read_params if method.sender == "plugin" else read_host_params
    assert isinstance(read(method.name, sample), method.params)
    described = next(m for m in _document(method)["methods"] if m["name"] == method.name)
    properties = {param["name"]: param["schema"] for param in described["params"]}
    required = [param["name"] for param in described["params"] if param["required"]]
    strict = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    _check(strict, sample)


@each_method
def test_the_answer_of_each_example_fits_its_schema(method: Method) -> None:
    sample = SAMPLES[method.sender][method.name]
    if method.is_request:
        _check(result_schema(method), sample.result)
    else:
        assert sample.result is None


def test_a_wrong_answer_does_not_fit_its_schema() -> None:
    gate = next(method for method in METHODS if method.name == "gate")
    for wrong in ({"verdict": "deny"}, {"verdict": "maybe"}, "allow", {}):
        with pytest.raises(jsonschema.ValidationError):
            _check(result_schema(gate), wrong)


def test_the_example_of_initialize_is_an_answer_that_the_host_takes() -> None:
    result = read_initialize_result(decode(encode(SAMPLES["host"]["initialize"].result)), "loop-warner")
    assert [hook.name for hook in result.hooks] == ["ally_start", "ally_tool_call_end", "ally_gate_tool_call"]


@pytest.mark.parametrize("server", SERVERS)
def test_each_document_has_unique_names_and_no_reference_that_leads_nowhere(server: Literal["host", "daemon"]) -> None:
    document = openrpc(server)
    names = [method["name"] for method in document["methods"]]
    assert sorted(set(names)) == sorted(names)
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]


def test_every_error_code_has_its_words_and_every_error_of_a_method_its_code() -> None:
    assert set(ERROR_DESCRIPTIONS) == set(CODES)
    named = {reason for method in METHODS for reason in method.errors} | set(COMMON_ERRORS)
    assert named <= set(CODES)


def test_every_example_belongs_to_a_method() -> None:
    for sender, samples in SAMPLES.items():
        assert set(samples) == {method.name for method in METHODS if method.sender == sender}


def _document(method: Method) -> dict[str, Any]:
    return openrpc("host" if method.sender == "plugin" else "daemon")
