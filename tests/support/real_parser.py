"""Run by the Python that has vLLM: parse command lines from stdin (JSON) as `vllm serve` does, print what came of each.

Input: a list of argument lists, without `serve`. Output: `{"options": [[name, …], …], "results": [{…} or null, …],
"verdicts": [text or null, …]}`. A result is null where the parser refuses the command line; a verdict is what is said
against it by the parser or by the quick checks after it (`validate_parsed_serve_args`), `help` where help is printed.
"""

import contextlib
import io
import json
import sys
from typing import Any

FIELDS = (
    "host",
    "port",
    "download_dir",
    "api_key",
    "uds",
    "headless",
    "grpc",
    "grpc_port",
    "root_path",
    "config",
    "ssl_keyfile",
    "ssl_certfile",
    "api_server_count",
    "data_parallel_size",
    "data_parallel_multi_port_external_lb",
    "served_model_name",
)


def main() -> None:
    """Answer one request."""
    requests = json.load(sys.stdin)
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm")
    command = ServeSubcommand()
    serve = command.subparser_init(parser.add_subparsers(dest="subparser"))
    results: list[dict[str, Any] | None] = []
    verdicts: list[str | None] = []
    for arguments in requests:
        result = verdict = None
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                found = parser.parse_args(["serve", *arguments])
                result = {name: getattr(found, name) for name in FIELDS}
                result["model"] = found.model_tag if found.model_tag is not None else found.model
                command.validate(found)
        except SystemExit:
            verdict = said.getvalue() or "help"
        except Exception as refusal:
            verdict = f"{type(refusal).__name__}: {refusal}"
        results.append(result)
        verdicts.append(verdict)
    options = [list(action.option_strings) for action in serve._actions if action.option_strings]
    json.dump({"options": options, "results": results, "verdicts": verdicts}, sys.stdout)


if __name__ == "__main__":
    main()
