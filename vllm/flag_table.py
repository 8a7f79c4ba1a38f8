#!/usr/bin/env python3
"""Write the table of `vllm serve`'s flags, read from the parser of the vLLM that runs this script.

    PYTHON-WITH-VLLM vllm/flag_table.py DIRECTORY

The file is DIRECTORY/flags-VERSION.json; `src/vllm_fsm/flags.py` says what its fields mean. The same vLLM writes the
same bytes. A value type that the script does not know becomes "unknown", and is named on the standard error output.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")

FOLDED = "Aa-Bb"
"""What tells a conversion that folds names (`aa_bb`) from others."""

Row = dict[str, Any]


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of `vllm serve`, built as vLLM's command line builds it."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    top = FlexibleArgumentParser(prog="vllm")
    return ServeSubcommand().subparser_init(top.add_subparsers(dest="subparser"))


def table() -> Row:
    """Return the whole table."""
    import vllm
    from vllm.config.speculative import SpeculativeMethod
    from vllm.model_executor.layers.quantization import QuantizationMethods
    from vllm.model_executor.model_loader import LoadFormats
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager
    from vllm.transformers_utils.chat_templates.registry import CHAT_TEMPLATES_DIR

    rows = [row(action) for action in serve_parser()._actions if action.option_strings]
    return {
        "version": vllm.__version__.partition("+")[0],
        "toolCallParsers": ToolParserManager.list_registered(),
        "reasoningParsers": ReasoningParserManager.list_registered(),
        "quantizationMethods": sorted(get_args(QuantizationMethods)),
        "loadFormats": sorted(get_args(LoadFormats)),
        "speculativeMethods": sorted(literals(SpeculativeMethod)),
        "chatTemplates": sorted(path.name for path in CHAT_TEMPLATES_DIR.glob("*.jinja")),
        "flags": sorted(rows, key=lambda row: row["names"]),
    }


def row(action: argparse.Action) -> Row:
    """Return what the table says of one flag; what is usual (one value, any text) is left out."""
    found: Row = {"names": list(action.option_strings)}
    match action.nargs:
        case None:
            pass
        case 0 | "?" | "+":
            found["values"] = str(action.nargs)
        case other:
            raise ValueError(f"{action.option_strings}: nargs {other!r} is not known here: teach argument_check.py")
    if action.nargs == 0:
        return found
    converter, optional = unwrapped(action.type)
    found |= lora() if type(action).__name__ == "LoRAParserAction" else kind(converter, action)
    if optional:
        found["optional"] = True
    if action.choices is not None:
        choices = list(action.choices)
        if (None in choices) != optional:
            raise ValueError(f"{action.option_strings}: None is allowed by the type or by the choices, but not by both")
        found["choices"] = [choice for choice in choices if choice is not None]
    elif isinstance(action.metavar, list):
        # vLLM's way to name the usual values of a flag that takes others too.
        found["known"] = action.metavar
    return found


def unwrapped(converter: Any) -> tuple[Any, bool]:
    """Return what `optional_type` and `parse_type` of vllm.engine.arg_utils wrap, and whether None can be said."""
    optional = False
    while (name := getattr(converter, "__name__", "")) in ("_optional_type", "_parse_type"):
        (converter,) = (cell.cell_contents for cell in converter.__closure__)
        optional = optional or name == "_optional_type"
    return converter, optional


def kind(converter: Any, action: argparse.Action) -> Row:
    """Return the type of a value, and the keys of a JSON object where only some are allowed."""
    match getattr(converter, "__name__", None):
        case None | "str":
            return {}
        case "int":
            return {"type": "integer"}
        case "float":
            return {"type": "number"}
        case "human_readable_int":
            return {"type": "size"}
        case "human_readable_int_or_auto":
            return {"type": "size or auto"}
        case "loads":
            return {"type": "json"}
        case "union_dict_and_str":
            return {"type": "json or text"}
        case "parse_dataclass":
            return {"type": "object", "keys": keys(converter.__defaults__[0])}
        case "<lambda>":
            said = converter(FOLDED)
            if said == "aa_bb":
                return {"type": "folded"}
            if isinstance(said, list):
                return {"type": "list"}
    print(f"flag_table: {'/'.join(action.option_strings)}: {converter!r} is not known", file=sys.stderr)
    return {"type": "unknown"}


def keys(cls: type) -> list[str]:
    """Return the keys that a JSON object for this configuration class may have: those not refused as unexpected."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(cls)

    def expected(name: str) -> bool:
        try:
            adapter.validate_json(json.dumps({name: None}))
        except ValidationError as error:
            return all(found["type"] != "unexpected_keyword_argument" for found in error.errors(include_url=False))
        except Exception:  # a validator of the class stumbled over None
            return True
        return True

    if expected("no-such-key"):
        raise ValueError(f"{cls.__name__} takes any key: teach argument_check.py")
    return [field.name for field in dataclasses.fields(cls) if expected(field.name)]


def lora() -> Row:
    """Return what is known of `--lora-modules`: `name=path` or a JSON object."""
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath

    fields = dataclasses.fields(LoRAModulePath)
    return {
        "type": "lora",
        "keys": [field.name for field in fields],
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
    }


def literals(hint: Any) -> set[str]:
    """Return the texts of a Literal that may hold other Literals."""
    return {text for part in get_args(hint) for text in ([part] if isinstance(part, str) else literals(part))}


def written(found: Row) -> str:
    """Return the table as JSON with one name or one flag a line, so that a difference between versions can be read."""
    fields = []
    for field, value in found.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in value)
            fields.append(f'"{field}": [\n{lines}\n]')
        else:
            fields.append(f'"{field}": {json.dumps(value)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def main() -> int:
    """Write the file and print its path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    directory = parser.parse_args().directory
    found = table()
    path = directory / f"flags-{found['version']}.json"
    path.write_text(written(found), encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
