"""What is replaced, what is left, and that neither takes long."""

import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_fsm.core.snapshot import Finding, Secret
from vllm_fsm.core.states import Service
from vllm_fsm.redaction import MOST, Redactor, plain

KEY = "k7Qm2Zp9xLw4Tn8RbV6yCd"
ODD = "p'a\"s\\s/w+o%r&d=é"


# --- known secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, "a/b+c==&d", ODD, "'''''''''", '"quoted"', "abcdefgh", "*" * 9])
@pytest.mark.parametrize(
    "spell",
    [
        str,
        json.dumps,
        lambda key: json.dumps(key, ensure_ascii=False),
        lambda key: json.dumps(key).replace("/", "\\/"),
        repr,
        lambda key: repr([key, "'"]),
        lambda key: repr(f"{key}'"),
        lambda key: repr(f"{key}'\""),
        quote,
        lambda key: quote(key, safe=""),
        lambda key: quote(key, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d").replace(
            "%5C", "%5c"
        ).replace("%C3%A9", "%c3%a9"),
        lambda key: f"x{key}x",
    ],
)  # fmt: skip
def test_a_known_secret_is_replaced_however_it_is_written(key: str, spell) -> None:  # type: ignore[no-untyped-def]
    written = spell(key)
    scrubbed = Redactor([Secret(key)]).scrub(f"before {written} between {written} behind")
    assert key.strip("'\"*") == "" or key not in scrubbed
    assert scrubbed.count("***") == 2
    assert scrubbed.startswith("before ")
    assert scrubbed.endswith(" behind")
    assert written not in scrubbed


def test_older_keys_stay_known_and_the_oldest_is_forgotten_first() -> None:
    redactor = Redactor(["first-key"])
    for number in range(MOST - 1):
        redactor.know(f"later-key-{number:03d}")
    redactor.know("first-key")
    assert redactor.scrub("first-key later-key-000") == "*** ***"
    redactor.know("one-more-key")
    assert redactor.scrub("first-key later-key-001 one-more-key later-key-000") == "*** *** *** later-key-000"


def test_a_secret_within_another_leaves_no_rest() -> None:
    assert Redactor(["abcdefgh", "abcdefghijkl"]).scrub("abcdefghijkl abcdefgh") == "*** ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the key is abcd.", "the key is ***."),
        ("'abcd'", "'***'"),
        ("abcde xabcd abcd_ 9abcd", "abcde xabcd abcd_ 9abcd"),
        ("é abcdé", "é ***é"),
    ],
)
def test_a_short_secret_is_replaced_as_a_word(text: str, expected: str) -> None:
    assert Redactor(["abcd"]).scrub(text) == expected


def test_a_very_short_secret_is_replaced_where_it_must_be_one() -> None:
    redactor = Redactor(["a"])
    assert redactor.scrub("a model was loaded") == "a model was loaded"
    assert redactor.scrub("Authorization: Bearer a") == "Authorization: Bearer ***"
    assert redactor.scrub("VLLM_API_KEY=a") == "VLLM_API_KEY=***"


def test_a_secret_of_several_lines_is_known_by_its_lines() -> None:
    redactor = Redactor()
    redactor.know_environment([("SSH_KEY", "-----BEGIN KEY-----\nAAAAB3NzaC1\n  x9yzAAAA\n-----END KEY-----\n")])
    assert redactor.scrub("AAAAB3NzaC1") == "***"
    assert redactor.scrub("x9yzAAAA") == "***"
    assert redactor.scrub("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


# --- variables ---------------------------------------------------------------------------------------------------


def test_secret_variables_by_name_and_proxies_by_value() -> None:
    redactor = Redactor()
    redactor.know_environment(
        [
            ("GITHUB_TOKEN", "ghp-0123456789"),
            ("aws_secret_access_key", "AKIA/abc+def"),
            ("DB_PASSWORD", "tr0ub4dor&3"),
            ("S3_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("https_proxy", "http://user:p%40ss-w0rd@proxy:3128"),
            ("PLAIN", "plain-value"),
        ]
    )
    assert (
        redactor.scrub("ghp-0123456789 AKIA/abc+def AKIA%2Fabc%2Bdef tr0ub4dor&3 AKIDEXAMPLE p@ss-w0rd p%40ss-w0rd")
        == "*** *** *** *** *** *** ***"
    )
    assert redactor.scrub("plain-value") == "plain-value"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE", "163840"),
        ("HF_TOKEN_PATH", "/data/token"),
        ("SSL_KEYFILE", "/data/key.pem"),
        ("HF_TOKEN", ""),
    ],
)
def test_settings_that_only_sound_secret_are_left(name: str, value: str) -> None:
    redactor = Redactor()
    redactor.know_environment([(name, value)])
    assert redactor.scrub(f"{name}={value} is set") == f"{name}={value} is set"


# --- what looks like a secret ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token hf_abcdefghijklmnopqrstuvwxyzABCDEFGH.", "token ***."),
        ("HF_TOKEN=hf_0aaaaaaa", "HF_TOKEN=***"),
        ("'hf_" + "a" * 34 + "'", "'***'"),
        ("hf_oauth_eyJhbGciOi.J9-x_y", "***"),
        ("api_org_abcdefghijklmnopqrstuvwxyzABCDEFGH", "***"),
        ("http://user:secret@host/x?a=b@c", "http://user:***@host/x?a=b@c"),
        ("http://:p@ss:w@host:80", "http://:***@host:80"),
        ("redis+tls://u:s3cr3t@h and http://v:t@i", "redis+tls://u:***@h and http://v:***@i"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Bearer abc'}", "{'authorization': 'Bearer ***'}"),
        ('{"Authorization": "Basic dXNlcg=="}', '{"Authorization": "Basic ***"}'),
        ("(b'authorization', b'Bearer abc')", "(b'authorization', b'Bearer ***')"),
        ("Authorization: abc", "Authorization: ***"),
        ("bearer abc", "bearer ***"),
        ("x-api-key: abc", "x-api-key: ***"),
        ("'api_key': ['abc']", "'api_key': ['***']"),
        ("['--api-key', 'abc']", "['--api-key', '***']"),
        ("/v1?api_key=abc&x=1", "/v1?api_key=***&x=1"),
    ],
)
def test_what_looks_like_a_secret(text: str, expected: str) -> None:
    assert Redactor().scrub(text) == expected
    assert Redactor().scrub(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "INFO [utils.py:1] non-default args: {'hf_overrides': {}, 'hf_config_path': None, 'hf_transfer': 1}",
        "requests.exceptions.HTTPError: Invalid credentials in Authorization header",
        "The Bearer token is missing; use bearer authentication",
        "The argument --api-key is reserved.",
        "Found duplicate keys --api-key, --port",
        "Get API Key: see the action",
        "https://huggingface.co/org/name@main and git@host:x http://[::1]:8000/v1",
        "Starting vLLM server on http://0.0.0.0:8000",
        "user@host://x",
    ],
)
def test_prose_is_left(text: str) -> None:
    assert Redactor([KEY]).line(text) == text


# --- structures --------------------------------------------------------------------------------------------------


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_structures_are_scrubbed_at_every_level() -> None:
    redactor = Redactor([KEY])
    found = redactor.scrub_value(
        {
            "event": f"key {KEY}",
            f"/{KEY}": 1,
            "secret": Secret(KEY),
            "nested": [{"a": (KEY, 1, 2.5, None, True)}, {KEY}],
            "bytes": KEY.encode(),
            "error": ValueError(f"bad {KEY}"),
            "state": Service.READY,
            "finding": Finding.of("X", evidence=KEY),
            "rude": Rude(),
        }
    )
    assert KEY not in repr(found)
    assert isinstance(found, dict)
    assert found["event"] == "key ***"
    assert found["/***"] == 1
    assert found["secret"] == "***"
    assert found["nested"] == [{"a": ("***", 1, 2.5, None, True)}, ["***"]]
    assert found["bytes"] == "b'***'"
    assert found["error"] == "ValueError: bad ***"
    assert found["state"] == "Ready"
    assert "***" in str(found["finding"])
    assert found["rude"] == "<Rude>"


def test_a_key_that_is_a_word_of_ours_does_not_hide_the_state() -> None:
    redactor = Redactor(["Ready", "success", "message", "state"])
    told = {"state": "Ready", "result": "success", "message": "state Ready, with success", "other": "READY"}
    assert redactor.scrub_value(told) == {**told, "message": "*** ***, with ***"}


def test_a_structure_that_holds_itself_ends() -> None:
    ring: list[object] = [KEY]
    ring.append(ring)
    found = Redactor([KEY]).scrub_value(ring)
    assert KEY not in repr(found)
    assert "…" in repr(found)


@pytest.mark.parametrize("before", ["token%3D", "a%20", "ready", "x=", "9"])
def test_a_hub_token_is_seen_behind_anything(before: str) -> None:
    assert Redactor().scrub(f"{before}hf_{'aB3' * 11}x&more") == f"{before}***&more"


def test_structures_hold_nothing_that_a_terminal_obeys() -> None:
    """They become log lines and the health file, which are shown on terminals."""
    told = Redactor([KEY]).scrub_value(
        {
            "message": "a\x1b[2Jb\x9b1mc\u202ed\u2028e",
            "\x1b]0;x\x07name": ["\x85"],
            "error": ValueError("\x1bc"),
            "half": "\ud800",
        }
    )
    assert told == {
        "message": "abc\\u202ed\\u2028e",
        "name": ["\\x85"],
        "error": "ValueError: ",
        "half": "\\ud800",
    }
    assert Redactor([KEY]).scrub_value({"lines": "one\n\ttwo"}) == {"lines": "one\n\ttwo"}


def test_a_code_within_a_secret_of_a_structure_does_not_hide_it() -> None:
    assert Redactor([KEY]).scrub_value([f"{KEY[:5]}\x1b[0m{KEY[5:]}"]) == ["***"]


# --- terminals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext é 漢字 👍\n", "plain\ttext é 漢字 👍\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b1mC1\x9bm", "C1"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("\x1bPq#1\x1b\\a\x90x\x9cb\x1b_hidden\x1b\\c", "abc"),
        ("\x1bc\x1b(B\x1b=a\x1b7", "a"),
        ("\x1b]0;no end, and the rest is shown", "\\x1b]0;no end, and the rest is shown"),
        ("\x1b\x1b[0m[31mnested", "\\x1b[31mnested"),
        ("\x1b[" + "0" * 99, "\\x1b[" + "0" * 99),
        ("over\rwritten\x08\x00\x7f\x85", "over\\x0dwritten\\x08\\x00\\x7f\\x85"),
        ("\u202eevil\u202c \u2066x\u2069 \u2028\u200f", "\\u202eevil\\u202c \\u2066x\\u2069 \\u2028\\u200f"),
        (b"not \xff UTF-8".decode("utf-8", "surrogateescape"), "not \\udcff UTF-8"),
        ("", ""),
    ],
)
def test_nothing_is_left_that_a_terminal_obeys(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.text(st.sampled_from("\x1b\x9b\x9d\x9c\x07\\[]PX;0m \x00\r\ta\u202e\ud800")))
def test_no_control_character_is_left(text: str) -> None:
    shown = plain(text)
    assert all(character.isprintable() or character in "\t\n" for character in shown)
    assert plain(shown) == shown


def test_a_code_within_a_secret_does_not_hide_it() -> None:
    assert Redactor([KEY]).line(f"{KEY[:5]}\x1b[0m{KEY[5:]}") == "***"


# --- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("x y " * 4096, "\x00" * 16384, "\x1b[" * 8192, "\x1b]" * 8192, "\x9d" * 16384, "\x1b[" + "0" * 16382),
        *("://" * 5461, "://a:" * 3277, "://a:" + "@" * 16379, "://" + "a" * 16381, "hf_" * 5461, "hf_" + "a" * 16381),
        *("bearer " * 2340, "authorization:" * 1170, "api_key=" * 2048, "api_key" + " " * 16377, KEY * 744),
    ],
)
def test_no_line_takes_long(text: str) -> None:
    """Ordinary lines take microseconds; these are the worst that were found. The bound is for a busy machine."""
    redactor = Redactor([KEY, ODD, "short"])
    times = []
    for _ in range(5):
        start = time.perf_counter()
        redactor.line(text)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03
