"""The reserved flags against vLLM's own parser: what gets through, and what must not be dropped."""

import random
from pathlib import Path
from typing import Any

from support.command_lines import FIXED, command_line, odd
from support.real_vllm import parse
from vllm_fsm.arguments import COUNTS_OF_API_SERVERS, RESERVED_ARGUMENTS, effective, served_names

RANDOM_LINES = 2000

OVERRIDES = {
    "flag": ["m", "--port", "9"],
    "flag=value": ["m", "--port=9"],
    "abbreviation": ["m", "--por", "9"],
    "underscore key": ["m", "--api_key", "k"],
    "underscore dir": ["m", "--download_dir", "/x"],
    "several keys": ["m", "--api-key", "k1", "k2"],
    "empty key": ["m", "--api-key="],
    "dotted key": ["m", "--api-key.x=y"],
    "dotted host": ["m", "--host.x", "v"],
    "dotted dir": ["m", "--download-dir.x", "v"],
    "dotted socket": ["m", "--uds.x=v"],
    "dotted port": ["m", "--port.x", "1"],
    "dotted abbreviation": ["m", "--ud.x", "v"],
    "socket": ["m", "--uds", "/x"],
    "socket abbreviation": ["m", "--ud", "/x"],
    "headless": ["m", "--headless"],
    "headless abbreviation": ["m", "--hea"],
    "no API servers": ["m", "--api-server-count", "0"],
    "no API servers, short": ["m", "-asc", "-1"],
    "no data parallel": ["m", "-dp", "0"],
    "grpc": ["m", "--grpc"],
    "root path": ["m", "--root-path", "/v"],
    "TLS": ["m", "--ssl-keyfile", "k", "--ssl-certfile", "c"],
    "ports per rank": ["m", "-dpm"],
    "dotted socket behind -O": ["m", "-O--uds.x=/p", "3"],
    "host as the value of --model": ["1.2.3.4", "--model"],
    "help": ["m", "--help"],
    "help text": ["m", "--help=port"],
    "short help": ["m", "-h"],
    "help twice": ["m", "-hh"],
}


def check_ours(result: dict[str, Any], what: object) -> None:
    assert (result["host"], result["port"], result["download_dir"]) == ("0.0.0.0", 8000, "/models"), what
    for field in ("api_key", "uds", "grpc_port", "root_path", "config", "ssl_keyfile", "ssl_certfile"):
        assert result[field] is None, (field, what)
    for field in ("headless", "grpc", "data_parallel_multi_port_external_lb"):
        assert result[field] is False, (field, what)
    assert result["api_server_count"] is None or result["api_server_count"] >= 1, what
    assert result["data_parallel_size"] >= 1, what


def test_the_real_parser(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("uds: /x\nheadless: true\n")
    overrides = {**OVERRIDES, "file": ["m", "--config", str(config)], "file=": ["m", f"--config={config}"]}
    draw = random.Random(20260801)
    drawn = [command_line(draw) for _ in range(RANDOM_LINES)]
    usable = [(line, found) for line in drawn if (found := effective(line, [])).problem is None]
    cleaned = [effective(line, []) for line in overrides.values()]
    assert [name for name, found in zip(overrides, cleaned, strict=True) if found.problem] == [
        "host as the value of --model"
    ]
    answer = parse(
        [
            *(["m", *FIXED],),
            *([*line, *FIXED] for line in overrides.values()),
            *([*found.arguments, *FIXED] for found in cleaned),
            *([*found.arguments, *FIXED] for _, found in usable),
        ]
    )
    check_the_table(answer["options"])
    plain, *results = answer["results"]
    check_ours(plain, "nothing reserved")
    raw, clean, random_results = (
        results[: len(overrides)],
        results[len(overrides) : 2 * len(overrides)],
        results[2 * len(overrides) :],
    )

    # Without the filter, at least these reach vLLM or end it: the list of section "overriding" is not made up.
    assert sum(result != plain for result in raw) >= 20
    for (name, line), found, result in zip(overrides.items(), cleaned, clean, strict=True):
        if found.problem is None:  # else no engine is started
            assert found.warnings, name
            # What stood behind `-O…` is a second positional argument now.
            assert (result is None) == (name == "dotted socket behind -O"), name
            if result is not None:
                check_ours(result, line)

    parsed = 0
    for (line, found), result in zip(usable, random_results, strict=True):
        if result is None:
            continue
        parsed += 1
        what = (line, found.arguments)
        check_ours(result, what)
        assert result["model"] == found.model, what
        assert found.model is not None
        listed = [name for name in result["served_model_name"] or () if name is not None] or [found.model]
        assert odd(line) or tuple(listed) == served_names(found.arguments, found.model), what
    assert parsed >= RANDOM_LINES // 40


def check_the_table(options: list[list[str]]) -> None:
    names = {name for action in options for name in action}
    assert set(RESERVED_ARGUMENTS) - names == {"--", "--omni", "--version"}
    assert names.issuperset(COUNTS_OF_API_SERVERS)
    for action in options:
        assert len({name in RESERVED_ARGUMENTS for name in action}) == 1, f"{action}: all names or none"
    for reserved in RESERVED_ARGUMENTS:
        for end in range(3, len(reserved)):
            beginning = reserved[:end]
            if reserved.startswith("--"):
                meant = {name for name in names if name.startswith(beginning)}
                taken_for = {beginning} & names or meant
                assert len(taken_for) != 1 or taken_for <= set(RESERVED_ARGUMENTS), (beginning, meant)
    for name in sorted(names - set(RESERVED_ARGUMENTS)):
        for line in (["m", name, "1"], ["m", f"{name}=1"]):
            assert effective(line, []).arguments == tuple(line)
