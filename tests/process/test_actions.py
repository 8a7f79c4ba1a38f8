"""The actions as real commands: beside a controller, on a terminal, with a driver that hangs."""

import contextlib
import fcntl
import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from support import rude
from support.controller import Controller
from support.site import KNOWN
from support.wait import wait_for
from vllm_fsm.hardware.collect import LIMIT

FAST = {"settings": {"nudge_after": 0.2, "port_retry": 0.2, "restart_first": 0.1, "kill_again": 0.5}}
PYNVML = Path(__file__).parents[1] / "fakes" / "pynvml.py"
TOKEN = "hf_" + "aB3" * 11
CARD = {"uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "memory": 81559 << 20}
HIDING = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "VLLM_FSM_BUILD")


class Commands:
    """Runs commands on the directories of a controller, which may not be there."""

    def __init__(self, root, engine):
        self.data, self.public, self.run_dir = root / "data", root / "public", root / "run"
        self.environment = {name: value for name, value in os.environ.items() if name not in HIDING}
        self.environment |= {
            "VLLM_FSM_DATA": str(self.data),
            "VLLM_FSM_PUBLIC": str(self.public),
            "VLLM_FSM_RUN_DIR": str(self.run_dir),
            "VLLM_FSM_ENGINE": engine[0],
        }

    def driver(self, directory, **behaviour):
        """Have a driver that behaves so."""
        directory.mkdir()
        shutil.copy(PYNVML, directory / "pynvml.py")
        (directory / "behaviour.json").write_text(json.dumps({"devices": []} | behaviour))
        self.environment["PYTHONPATH"] = str(directory)

    def __call__(self, *words, given=None):
        return subprocess.run(
            (sys.executable, "-m", "vllm_fsm", *words),
            env=self.environment, input=given, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def json(self, *words, given=None):
        done = self(*words, given=given)
        assert done.stderr == ""
        return json.loads(done.stdout)

    def terminal(self, *words, columns=60, **variables):
        """Run on a terminal; returns what `Terminal` knows."""
        environment = self.environment | {"COLUMNS": str(columns), "TERM": "xterm"} | variables
        return Terminal((sys.executable, "-m", "vllm_fsm", *words), environment)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command, environment):
        self._end, child = pty.openpty()
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=self._take,
        )
        os.close(child)
        self._heard = b""

    @property
    def said(self):
        """What it printed, and what the terminal echoed, since something was typed."""
        return self._heard.decode(errors="replace")

    @staticmethod
    def _take():
        """Let the terminal be the session's, so that its keys send signals, which may be ignored where tests run."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def until(self, text, timeout=60.0):
        """Read until `text` was said, or the end if it is None."""
        due = time.monotonic() + timeout
        while text is None or text not in self.said:
            left = due - time.monotonic()
            assert left > 0, self.said
            if not select.select([self._end], [], [], left)[0]:
                continue
            try:
                part = os.read(self._end, 4096)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                assert text is None, self.said
                break
            self._heard += part
        return self

    def reads(self):
        """Whether it waits for input: Python loses a signal that arrives between the prompt and the reading."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def types(self, text):
        self._heard = b""
        os.write(self._end, text if isinstance(text, bytes) else text.encode())
        return self

    def ends(self):
        """Return the exit code."""
        self.until(None)
        return self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def engine(tmp_path):
    return rude.installed(tmp_path / "engine", KNOWN)


@pytest.fixture
def controller(tmp_path, engine):
    with Controller(tmp_path, overrides=FAST, engine=engine) as controller:
        yield controller


@pytest.fixture
def commands(tmp_path, engine):
    for name in ("data", "public", "run"):
        (tmp_path / name).mkdir(exist_ok=True)
    return Commands(tmp_path, engine)


# --- beside a controller -----------------------------------------------------------------------------------------


def test_a_controller_follows(controller, commands):
    controller.until("NoModel")
    done = commands("set-model", "--custom", "tiny --max-model-len 256", "--env", "RUDE_PRINT_KEY=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The running service follows" in done.stdout
    assert controller.ready(1)["active"]["arguments"] == ["tiny", "--max-model-len", "256"]
    done = commands("set-model", "--custom", "tiny --max-model-length 256")
    assert (done.returncode, done.stdout) == (2, "")
    assert commands.json("set-model", "--custom", "tiny --seed 7", "--json")["result"]["changed"]
    assert controller.ready(2)["active"]["arguments"] == ["tiny", "--seed", "7"]
    assert commands("set-model", "--none").returncode == 0
    controller.until("NoModel", also=lambda h: h["engine"] == "Absent")
    assert len(controller.events("engine-started")) == 2


def test_the_same_choice_in_failed_is_a_retry(controller, commands):
    words = ("set-model", "--custom", "tiny", "--env", "RUDE_EXIT_CODE=2", "--env")
    words += ("RUDE_LAST_LINE=vllm: error: bad",)
    assert commands(*words).returncode == 0
    controller.until("Failed")
    assert "asked to try again" in commands(*words).stdout
    controller.until("Failed", also=lambda h: h["attempt"] == 2)


def too_long(controller, *arguments):
    """Have an engine fail as vLLM does for a context that is too long; its words hold a secret."""
    said = "ValueError: User-specified max_model_len (8192) is greater than the derived max_model_len "
    said += f"(max_position_embeddings=4096.0 or model_max_length=None) {TOKEN}"
    controller.until("NoModel")
    controller.serve("tiny", *arguments, HF_TOKEN=TOKEN, RUDE_EXIT_CODE=1, RUDE_LAST_LINE=said)
    return controller.until("Failed", also=lambda h: h["engine"] == "Absent")


def test_a_fix_is_offered_everywhere_and_taken_by_nobody_but_us(controller, commands, tmp_path):
    commands.driver(tmp_path / "binding", devices=[CARD])
    health = too_long(controller, "--max-model-len=8k", "--seed", "7")
    assert health["fix"]["args"] == ["tiny", "--max-model-len=4096", "--seed", "7"]
    assert health["evidence"].startswith("ValueError: User-specified max_model_len (8192) is greater than")
    assert health["evidence"].endswith(" ***")
    shown = commands("status").stdout
    assert "evidence   ValueError: User-specified" in shown
    assert "with --max-model-len 4096, which fits, by\n           vllm-fsm set-model --fix\n" in shown
    assert commands.json("status", "--json")["fix"] == health["fix"]
    form = commands.json("action", "form", "set-model")
    choice = form["fields"][0]["choices"][0]
    assert choice["label"] == "The same model with --max-model-len 4096, which fits"
    done = commands("set-model", "--fix", "--dry-run")
    assert "serves  tiny --max-model-len=4096 --seed 7" in done.stdout
    assert controller.health()["attempt"] == 1
    assert commands.json("action", "run", "set-model", "--input", json.dumps({"selection": choice["id"]}))["ok"]
    health = controller.until("Failed", also=lambda h: h["attempt"] == 2 and h["engine"] == "Absent")
    assert health["target"]["arguments"] == ["tiny", "--max-model-len=4096", "--seed", "7"]
    assert health["fix"] is None
    refused = commands("set-model", "--fix")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "There is no correction to take" in refused.stderr
    assert TOKEN not in "".join((*controller.raw, shown, json.dumps(form), json.dumps(health), done.stdout))


def test_a_fix_is_taken_by_one_command(controller, commands):
    too_long(controller)
    done = commands("set-model", "--fix")
    assert (done.returncode, done.stderr) == (0, "")
    assert "serves  tiny --max-model-len 4096" in done.stdout
    assert controller.until("Failed", also=lambda h: h["attempt"] == 2)["fix"] is None
    assert commands("set-model", "--fix", "--none").returncode == 2
    assert commands("set-model", "--fix", "--env", "A=1").returncode == 2


def test_a_rotated_key_is_taken_by_the_engine(controller, commands):
    controller.serve("tiny").ready(1)
    old = controller.key
    assert commands.json("get-api-key", "--json")["result"]["values"][0]["value"] == old
    new = commands.json("rotate-api-key", "--json")["result"]["values"][0]["value"]
    assert new == controller.key != old
    controller.ready(2)
    assert commands.json("action", "run", "get-api-credentials")["result"]["values"][0]["value"] == new
    assert controller.events("key-created")[1:] == []
    assert new not in "".join(controller.raw)


def test_a_store_that_was_broken_while_it_runs_is_repaired(controller, commands):
    controller.serve("tiny").ready(1)
    controller.store.write_text('{"broken')
    controller.until("Ready", also=lambda h: h["warnings"])
    answer = commands.json("action", "run", "set-model", "--input", '{"selection": "custom", "customArgs": "tiny"}')
    assert Path(answer["result"]["aside"]).read_text() == '{"broken'
    assert controller.until("Ready", also=lambda h: not h["warnings"])["attempt"] == 1


# --- without one -------------------------------------------------------------------------------------------------


def test_all_of_it_works_without_a_controller(commands):
    given = json.dumps({"selection": "custom", "customArgs": "org/name --seed 1", "hfToken": "hf_" + "aB3" * 11})
    assert commands.json("action", "run", "set-model", "--input", "-", given=given)["ok"]
    assert commands.json("action", "form", "set-model")["fields"][1]["value"] == "org/name --seed 1"
    key = commands.json("action", "run", "get-api-key")["result"]["values"][0]["value"]
    assert json.loads((commands.public / "credentials.json").read_text()) == {"apiKey": key}
    assert commands("rotate-api-key").returncode == 0
    assert commands("set-model", "--none").returncode == 0


def test_nothing_is_expanded_and_nothing_is_written_on_refusal(commands, tmp_path):
    witness = tmp_path / "witness"
    for line in (f"org/name $(touch {witness})", f"org/name `touch {witness}`", f"$(touch {witness})"):
        assert commands("set-model", "--custom", line).returncode == 2
    assert commands("set-model", "--custom", "x " * 50_000).returncode == 2
    done = commands("set-model", "--custom", b"org/name \xff")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not witness.exists()
    assert list(commands.data.iterdir()) == []


def test_a_terminal_that_lacks_a_character_fails_nothing(commands):
    commands.environment["PYTHONIOENCODING"] = "ascii"
    done = commands("set-model", "--custom", "org/name", "--env", "A=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "with    A=?" in done.stdout


# --- drivers -----------------------------------------------------------------------------------------------------


def worked():
    """The seconds of CPU time that commands took: on a busy machine not many more than on an idle one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_form_is_less_than_a_seconds_work_with_a_healthy_driver(commands, tmp_path):
    commands.driver(tmp_path / "binding", devices=[CARD])
    commands("action", "form", "set-model")  # compiles what is not
    work, times = [], []
    for _ in range(5):
        before, began = worked(), time.monotonic()
        form = commands.json("action", "form", "set-model")
        work.append(worked() - before)
        times.append(time.monotonic() - began)
    assert form["fields"][0]["default"] == "qwen36-35b-a3b"
    assert sorted(work)[2] <= 1.0, work
    assert min(times) < LIMIT, "nothing is waited out"


def test_the_form_opens_within_8_seconds_with_one_that_hangs(commands, tmp_path):
    asked = tmp_path / "binding" / "hangs"
    commands.driver(asked.parent, hang="init")
    before = worked()
    form = commands.json("action", "form", "set-model")
    assert LIMIT + worked() - before <= 8.0, "what is waited out, and the work"
    assert form["fields"][0]["choices"][-1]["disabledReason"] is None
    asked.unlink()
    assert commands.json("action", "form", "get-api-credentials")["fields"] == []
    assert commands("set-model", "--custom", "org/name").returncode == 0
    assert not asked.exists(), "neither looks at the hardware"


# --- on a terminal -----------------------------------------------------------------------------------------------


def test_the_guided_choice_of_a_preset(commands, tmp_path):
    commands.driver(tmp_path / "binding", devices=[CARD])
    with commands.terminal("set-model") as terminal:
        terminal.until("Number [1]: ")
        assert "\x1b[32m 1\x1b[0m  Qwen3.6 35B-A3B" in terminal.said
        assert (
            max(len(line) for line in terminal.said.replace("\x1b[32m", "").replace("\x1b[0m", "").split("\r\n")) <= 60
        )
        terminal.types("99\n").until("Write a number from 1 to ").until("Number [1]: ")
        terminal.types("2\n")
        assert terminal.ends() == 0
        assert "No controller is running" in terminal.said
    assert json.loads((commands.data / "store.json").read_text())["modelSelection"] == {"selection": "qwen36-27b"}


def test_the_guided_choice_of_a_fix(controller, commands, tmp_path):
    commands.driver(tmp_path / "binding", devices=[CARD])
    too_long(controller, "--max-model-len", "8192")
    with commands.terminal("set-model", NO_COLOR="1", columns=100) as terminal:
        terminal.until("Number [1]: ")
        assert " 1  The same model with --max-model-len 4096, which fits (--fix)" in terminal.said
        terminal.types("\n")
        assert terminal.ends() == 0
        assert "serves  tiny --max-model-len 4096" in terminal.said


def test_the_guided_choice_of_custom_arguments_asks_until_they_are_right(commands, tmp_path):
    commands.driver(tmp_path / "binding", init="LibraryNotFound")
    with commands.terminal("set-model", NO_COLOR="1", PYTHONIOENCODING="utf-8:strict") as terminal:
        terminal.until("Number [1]: ")
        assert "\x1b" not in terminal.said
        assert "9 of 9 presets do not fit" in terminal.said
        terminal.types("\n").until("Model and arguments: ")
        terminal.types(b"org/name \xff\n").until("That is not UTF-8 text.").until("Model and arguments: ")
        terminal.types("org/name --frobnicate\n").until("vLLM has no flag").until("Number [1]: ")
        assert list(commands.data.iterdir()) == []
        terminal.types("1\n").until("Model and arguments: ")
        terminal.types("org/name --seed 1\n")
        assert terminal.ends() == 0
    with commands.terminal("set-model") as terminal:
        terminal.until("Number [1]: ").types("\n").until("Model and arguments [as now]: ")
        assert "now  org/name --seed 1" in terminal.said
        terminal.types("\n")
        assert terminal.ends() == 0
        assert "chosen already" in terminal.said


@pytest.mark.parametrize(("key", "code"), [("\x04", 1), ("\x03", 130)])
def test_a_guided_choice_can_be_left(commands, tmp_path, key, code):
    commands.driver(tmp_path / "binding", devices=[CARD])
    with commands.terminal("set-model") as terminal:
        terminal.until("Number [1]: ")
        assert wait_for(terminal.reads, what="it reads from the terminal")
        assert terminal.types(key).ends() == code
        assert "Nothing was chosen, and nothing was written." in terminal.said
        assert "Traceback" not in terminal.said
    assert list(commands.data.iterdir()) == []


def test_a_key_on_a_terminal_is_masked(commands):
    (commands.public / "credentials.json").write_text('{"apiKey": "sk-the-key-of-a-test"}')
    with commands.terminal("get-api-key") as terminal:
        assert terminal.ends() == 0
        assert "••••••••test" in terminal.said
        assert "sk-the" not in terminal.said
    with commands.terminal("get-api-key", "--show") as terminal:
        assert terminal.ends() == 0
        assert "sk-the-key-of-a-test" in terminal.said


def test_a_choice_without_a_terminal_is_wrong_usage(commands):
    done = commands("set-model", given="1\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name a preset" in done.stderr
