"""Run by the Python that has vLLM: parse command lines from stdin (JSON) as `vllm serve` does, print what came of each.

Input: a list of argument lists, without `serve`. Output: `{"options": [[name, …], …], "results": [{…} or null, …]}`,
null where vLLM refuses the command line.
"""

import contextlib
import io
import json
import sys

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
    serve = ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    results = []
    for arguments in requests:
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                found = parser.parse_args(["serve", *arguments])
        except (Exception, SystemExit):
            results.append(None)
            continue
        result = {name: getattr(found, name) for name in FIELDS}
        result["model"] = found.model_tag if found.model_tag is not None else found.model
        results.append(result)
    options = [list(action.option_strings) for action in serve._actions if action.option_strings]
    json.dump({"options": options, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
