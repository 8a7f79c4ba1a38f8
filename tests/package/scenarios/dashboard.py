"""What a scenario does and sees: the harness `h`, as somebody before the dashboard."""

import json
import os
import signal
import time


def processes():
    """The command lines of what an engine consists of."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if line.startswith(b"VLLM::") or b"vllm\0serve" in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


class Dashboard:
    """The dashboard, the volumes, and the processes of one run."""

    def __init__(self, h, refused):
        self.h, self.refused = h, refused
        self.facts = {}

    def until(self, condition, timeout=60.0, what=""):
        """Wait until `condition` gives something, and return it."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < end, f"not within {timeout} s: {what or condition}; {self.h.health}"
            time.sleep(0.02)
        return value

    def shows(self, result, part="", check="primary", timeout=60.0):
        """Wait until a health check shows that, and return its message."""

        def shown():
            health = self.h.health.get(check)
            return health if health and health["result"] == result and part in (health["message"] or "") else None

        return self.until(shown, timeout, f"{check} {result} {part!r}")["message"]

    def custom(self, arguments, variables=(), token=None):
        """The input of Set Model for arguments of one's own."""
        listed = [{"name": name, "value": value} for name, value in variables]
        own = {"customArgs": arguments, "customEnv": listed}
        return {"model": {"selection": "custom", "value": own}, "hfToken": token}

    def refusal(self, action, given):
        """Run an action that is refused, and return what is said."""
        try:
            self.h.action_run(action, given)
        except self.refused as refusal:
            return json.loads(str(refusal))["data"]["details"]
        raise AssertionError(f"{action} was not refused: {given}")

    def json(self, path):
        text = self.h.read(path)
        return None if text is None else json.loads(text)

    def report(self):
        """What `health.json` says."""
        return self.json("main/.vllm-fsm/health.json")

    def controller(self):
        """The process of the controller."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"/opt/vllm-fsm/launch.py" in words and b"run" in words and b"action" not in words:
                return int(pid)
        return None

    def kill(self, number=signal.SIGKILL):
        os.kill(self.until(self.controller), number)

    def effects(self, method, since=0):
        """The parameters of the calls to the host."""
        calls = [e for e in self.h.events[since:] if e["type"] == "effect" and e["method"] == method]
        return [call["params"] for call in calls]

    def looks(self, since=0, check="primary"):
        """What a health check has shown, each once in a row."""
        shown = [[p["result"], p["message"]] for p in self.effects("set-health", since) if p["id"] == check]
        return [look for i, look in enumerate(shown) if i == 0 or shown[i - 1] != look]

    def unfounded(self):
        """What was shown as a success without the controller's being Ready, or having been a second before."""
        state, left, found = None, 0.0, []
        for event in self.h.events:
            if event["type"] == "log" and '"event": "transition"' in event["line"]:
                said = json.loads(event["line"])
                if state == "Ready":
                    left = event["t"]
                state = said["to"]
            elif event["type"] == "effect" and event["method"] == "set-health":
                shown = event["params"]
                if shown["result"] == "success" and state != "Ready" and event["t"] - left > 1.0:
                    found.append(shown)
        return found

    def calls(self):
        """Every call to the host with its parameters, each once; which run asked and which container is left out."""
        found = []
        for event in self.h.events:
            if event["type"] == "effect":
                params = {k: v for k, v in event["params"].items() if k not in ("eventId", "guid")}
                if [event["method"], params] not in found:
                    found.append([event["method"], params])
        return found

    def tell(self, **facts):
        self.facts |= facts

    def end(self, path):
        """Stop, leave, and hand over what was found out."""
        begun = time.monotonic()
        self.h.stop()
        self.facts["stopping"] = time.monotonic() - begun
        self.facts["left"] = processes()
        self.h.exit()
        self.facts["calls"] = self.calls()
        self.facts["errors"] = [e for e in self.h.events if e["type"] == "effect-error"]
        self.facts["logged"] = [e["line"] for e in self.h.events if e["type"] == "log"]
        with open(path, "w") as file:
            json.dump(self.facts, file)
