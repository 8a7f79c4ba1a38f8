"""Serve arguments that try to get past the reserved flags, for the small parser and for vLLM's own."""

import random
from collections.abc import Iterable

FIXED = ("--host", "0.0.0.0", "--port", "8000", "--download-dir", "/models")

FLAGS = (
    *("--host", "--port", "--download-dir", "--api-key", "--uds", "--headless", "--grpc", "--grpc-port", "--root-path"),
    *("--config", "--ssl-keyfile", "--ssl-certfile", "--enable-ssl-refresh", "--no-enable-ssl-refresh", "--help", "-h"),
    *("--data-parallel-multi-port-external-lb", "-dpm", "--api-server-count", "-asc", "--data-parallel-size", "-dp"),
    *(
        "--model",
        "--served-model-name",
        "--dtype",
        "--config-format",
        "--hf-token",
        "--hf-overrides",
        "-q",
        "-n",
        "-ep",
    ),
    *("--compilation-config", "-cc", "--optimization-level", "--max-model-len", "--enforce-eager", "--chat-template"),
    *("--", "--omni", "--version", "-O"),
)
VALUES = ("m", "x", "9", "0", "-1", "-1.5", "", "-", "1.2.3.4", "None", "a b", '{"a": 1}', "f.yaml", "-x", "--x")


GOOD = (
    *(("--dtype", "auto"), ("--config-format", "hf"), ("--hf-token",), ("--hf-token", "t"), ("-q", "fp8"), ("-n", "1")),
    *(("-ep",), ("-cc", "3"), ("-cc.mode", "3"), ("--max-model-len=1k",), ("--enforce-eager",), ("-asc", "2")),
    *(("--served-model-name", "a", "b"), ("--served_model=c",), ("--compilation-config.mode=3",), ("-O2",)),
)


def odd(arguments: Iterable[str]) -> bool:
    """Whether argparse takes a word that begins with `-` for a value, since it holds a blank and fits no flag."""
    return any(argument.startswith("-") and " " in argument for argument in arguments)


def command_line(draw: random.Random) -> list[str]:
    """Draw serve arguments: flags in every spelling that vLLM takes and some that it does not, among good ones."""
    line = ["m"] if draw.random() < 0.8 else []
    for _ in range(draw.randrange(1, 7)):
        kind = draw.random()
        if kind < 0.45:
            line += draw.choice(GOOD)
        elif kind < 0.9:
            line.append(_argument(draw))
        else:
            line.append(draw.choice(VALUES))
    return line


def _argument(draw: random.Random) -> str:
    flag = draw.choice(FLAGS)
    if draw.random() < 0.4:
        flag = flag[: draw.randrange(1, len(flag) + 1)]
    if draw.random() < 0.2:
        flag = flag[:2] + flag[2:].replace("-", "_")
    if draw.random() < 0.25:
        flag += draw.choice((".x", ".x.y", ".x+", "."))
    if draw.random() < 0.3:
        flag += "=" + draw.choice(VALUES)
    if draw.random() < 0.05:
        flag = draw.choice(("-O", "-O=", "--help=")) + flag
    return flag
