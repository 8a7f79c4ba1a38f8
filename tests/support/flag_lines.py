"""Serve arguments drawn from a table of flags: right ones, and ones with one mistake or several."""

import random
from collections.abc import Callable

from vllm_fsm.flags import Flag, Table

WRONG = ("", "x", "1.5", "-1", "-2.5", "--", "None", "nan", "1k", "1.5K", "{", "{}", "[1]", "a b", "0x10", "१२", "1_0")
TEXTS = ("x", "org/name", "/tmp", "None", "{{ a }}", "a=b", "ä", "0", "a,b", "x" * 300)
JSON = ("{}", '{"a": 1}', '{"a": {"b": [1, null]}}', "[]", "1", "null", '"x"', "NaN")
BROKEN = ("{", '{"a": 1,}', "{'a': 1}", "{a: 1}", '{"a": 1} x', '{"a": tru}', '{"a"', "}", "{\n}", "1" * 5000)


class Lines:
    """Draws command lines."""

    def __init__(self, table: Table, seed: int) -> None:
        self._draw = random.Random(seed)
        self._names = sorted(table.flags)
        self._table = table

    def right(self) -> list[str]:
        """One in which every flag has a value of its kind."""
        return ["m", *(word for _ in range(self._draw.randrange(1, 7)) for word in self._flag(self._value))]

    def wrong(self) -> list[str]:
        """One that was right before something happened to it."""
        line = self.right()
        for _ in range(self._draw.choice((1, 1, 1, 2, 3))):
            line = self._draw.choice(
                (self._slip, self._bad_value, self._no_value, self._stray, self._beginning, self._path, self._swap)
            )(line)
        return line

    # --- what is right ---

    def _flag(self, value: Callable[[Flag], str]) -> list[str]:
        draw = self._draw
        name = draw.choice(self._names)
        flag = self._table.flags[name]
        if name in ("-h", "--help", "--config", "--headless") or flag.values == "0":
            return [] if name in ("-h", "--help") else [self._spelled(name), *self._values(flag, value)]
        values = self._values(flag, value)
        if len(values) == 1 and draw.random() < 0.4:
            return [f"{self._spelled(name)}={values[0]}"]
        return [self._spelled(name), *values]

    def _spelled(self, name: str) -> str:
        if name.startswith("--") and self._draw.random() < 0.2:
            return "--" + name[2:].replace("-", "_")
        return name

    def _values(self, flag: Flag, value: Callable[[Flag], str]) -> list[str]:
        match flag.values:
            case "0":
                return []
            case "?":
                return [value(flag)] if self._draw.random() < 0.5 else []
            case "+":
                return [value(flag) for _ in range(self._draw.randrange(1, 4))]
            case _:
                return [value(flag)]

    def _value(self, flag: Flag) -> str:
        draw = self._draw
        if flag.optional and draw.random() < 0.1:
            return draw.choice(("", "None"))
        if flag.choices:
            choice = str(draw.choice(flag.choices))
            return choice.upper().replace("_", "-") if flag.kind == "folded" and draw.random() < 0.5 else choice
        match flag.kind:
            case "integer":
                return draw.choice(("0", "1", "16", "-1", " 7 ", "1_000"))
            case "number":
                return draw.choice(("0", "0.5", "1e3", "inf", ".5"))
            case "size":
                return draw.choice(("1k", "2M", "25.6k", "4096"))
            case "size or auto":
                return draw.choice(("auto", "AUTO", "-1", "1k", "4096"))
            case "json":
                return draw.choice(JSON)
            case "object":
                return draw.choice(("{}", " {} ", "{\n}"))
            case "lora":
                return draw.choice(("a=/b", '{"name": "a", "path": "/b"}', ""))
            case _:
                return draw.choice(TEXTS)

    # --- what happens to it ---

    def _slip(self, line: list[str]) -> list[str]:
        """A letter is lost, doubled or exchanged in a flag."""
        at = self._place(line, "-")
        word = line[at] or "-"
        spot = self._draw.randrange(len(word))
        put = self._draw.choice(("", word[spot] * 2, self._draw.choice("abc-_.x")))
        return [*line[:at], word[:spot] + put + word[spot + 1 :], *line[at + 1 :]]

    def _bad_value(self, line: list[str]) -> list[str]:
        draw = self._draw
        return [*line, *self._flag(lambda flag: draw.choice(BROKEN if "json" in flag.kind else (*WRONG, *BROKEN[:4])))]

    def _no_value(self, line: list[str]) -> list[str]:
        at = self._place(line, "")
        return [*line[:at], *line[at + 1 :]] if len(line) > 1 and at else line

    def _stray(self, line: list[str]) -> list[str]:
        at = self._draw.randrange(len(line) + 1)
        word = self._draw.choice((*WRONG, "stray", "-z", "--no-such", "-1.5", "-q4", "-epx", "-O9", "-Ox", "-"))
        return [*line[:at], word, *line[at:]]

    def _beginning(self, line: list[str]) -> list[str]:
        """A flag is cut off: unambiguous beginnings are taken."""
        at = self._place(line, "--")
        head, equals, value = line[at].partition("=")
        return [*line[:at], head[: self._draw.randrange(3, max(4, len(head) + 1))] + equals + value, *line[at + 1 :]]

    def _path(self, line: list[str]) -> list[str]:
        """A JSON path behind a flag, with or without a value."""
        draw = self._draw
        flag = self._table.flags[draw.choice(self._names)]
        path = draw.choice((".a", ".a.b", ".", ".a+", *(f".{key}" for key in flag.keys)))
        value = draw.choice((["1"], ["x"], ["null"], ["--seed"], [], ["{"]))
        name = self._spelled(draw.choice(flag.names))
        if draw.random() < 0.4 and value:
            return [*line, f"{name}{path}={value[0]}"]
        return [*line, name + path, *value]

    def _swap(self, line: list[str]) -> list[str]:
        """Two words change places."""
        one, other = (self._draw.randrange(len(line)) for _ in range(2))
        line = list(line)
        line[one], line[other] = line[other], line[one]
        return line

    def _place(self, line: list[str], begin: str) -> int:
        places = [at for at, word in enumerate(line) if word.startswith(begin) and word]
        return self._draw.choice(places) if places else 0
