#!/usr/bin/env python3
"""Acceptance harness: runs a StartOS package's javascript/index.js in the StartOS
container-runtime on this machine, against a stub host (the "effects" JSON-RPC).

  s9harness.py --package DIR --volumes DIR [--runtime dist/index.js] [--image ID=DIR]...
               [--out transcript.jsonl] [--quiet] (--scenario FILE.py [args...] | --steps STEP...)

Everything runs in a private mount + network namespace (root needed), so
/media/startos, /usr/lib/startos and every TCP port are private to one run.
Steps: init[:install|update|restore|null]  action-input:ID  action-run:ID:JSON  start  stop
       restart  exit  backup  wait:SECONDS  wait-health:ID:RESULT[:TIMEOUT]
       write:VOL/PATH:TEXT (atomic rename)  write-inplace:VOL/PATH:TEXT  rm:VOL/PATH
       image-env:IMG:K=V  cmd:SHELL (inside the namespaces)
"""
import argparse, ctypes, json, os, shutil, signal, socket, subprocess, sys, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
RPC_DIR = "/media/startos/rpc"
COOLDOWN = 10.0  # SYNC_RETRY_COOLDOWN_SECONDS in start-core


class RpcError(Exception):
    pass


class Harness:
    def __init__(self, a):
        self.a = a
        self.t0 = time.time()
        self.events = []
        self.cv = threading.Condition(threading.RLock())
        self.out = open(a.out, "w", buffering=1) if a.out else None
        self.health = {}          # what the dashboard would show (cleared as startd clears it)
        self.tasks = {}           # replayId -> task
        self.actions = {}         # exported actions
        self.interfaces = {}
        self.bindings = []
        self.addresses = []       # HostnameInfo: how clients could reach a binding
        self.public_enabled = []  # public addresses that the user has switched on, as host:port
        self.data_version = None
        self.desired = "stopped"  # stopped | running | restarting
        self.restart_again = False
        self.started = None
        self.rt = None
        self.rpc_id = 0
        self.guid = 0
        self.subs = {}
        self.closing = False
        self.status_callbacks = []
        self.manifest = json.loads(subprocess.check_output(
            ["node", "-e", "const m=require(process.argv[1]).manifest;console.log('@@'+JSON.stringify(m))",
             os.path.abspath(a.package) + "/javascript/index.js"], stderr=subprocess.DEVNULL, text=True).split("@@")[-1])
        self._setup_fs()
        self._listen_host()
        self._listen_events()
        threading.Thread(target=self._actor, daemon=True).start()

    # ---------- recording
    def ev(self, type, **kw):
        t = kw.pop("t", None) or time.time()
        e = {"t": round(t, 4), "rel": round(t - self.t0, 3), "type": type, **kw}
        with self.cv:
            self.events.append(e)
            if self.out:
                self.out.write(json.dumps(e) + "\n")
            if not self.a.quiet:
                print(json.dumps(e), flush=True)
            self.cv.notify_all()
        return e

    def wait(self, pred, timeout=10, since=0):
        """first event at index >= since with pred(event); None on timeout"""
        end = time.time() + timeout
        i = since
        with self.cv:
            while True:
                while i < len(self.events):
                    if pred(self.events[i]):
                        return self.events[i]
                    i += 1
                left = end - time.time()
                if left <= 0:
                    return None
                self.cv.wait(left)

    def mark(self):
        with self.cv:
            return len(self.events)

    def note(self, text, **kw):
        return self.ev("note", text=text, **kw)

    # ---------- filesystem layout seen by the runtime
    def _setup_fs(self):
        sh = lambda c: subprocess.run(c, shell=True, check=True)
        for d in ("/media/startos", "/usr/lib/startos"):
            os.makedirs(d, exist_ok=True)
            sh(f"mount -t tmpfs tmpfs {d}")
        for d in ("rpc", "volumes", "images", "image-fs", "subcontainers", "assets", "backup"):
            os.makedirs(f"/media/startos/{d}", exist_ok=True)
        for v in self.manifest["volumes"]:
            os.makedirs(f"{self.a.volumes}/{v}", exist_ok=True)
        sh(f"mount --bind {self.a.volumes} /media/startos/volumes")
        assets = os.path.join(self.a.package, "assets")
        if os.path.isdir(assets):
            sh(f"mount --bind {assets} /media/startos/assets")
            sh("mount -o remount,bind,ro /media/startos/assets")  # a squashfs there
        if self.a.backup_dir:
            os.makedirs(self.a.backup_dir, exist_ok=True)
            sh(f"mount --bind {os.path.abspath(self.a.backup_dir)} /media/startos/backup")
        os.makedirs("/usr/lib/startos/package")
        sh(f"mount --bind {self.a.package}/javascript /usr/lib/startos/package")
        # /usr/bin/start-container must be found even when spawn() replaces env (no PATH)
        sh(f"mount -t overlay overlay -o lowerdir={HERE}/bin:/usr/bin /usr/bin")
        sh("ip link set lo up")
        images = dict(x.split("=", 1) for x in self.a.image or [])
        self.image_env = {}
        for i in self.manifest["images"]:
            src = images.get(i) or os.path.join(HERE, "fake-images", i)
            dst = f"/media/startos/image-fs/{i}"
            if os.path.isdir(src):
                shutil.copytree(src, dst, symlinks=True)
            else:
                os.makedirs(dst)
            meta = {"entrypoint": None, "cmd": None, "workdir": "/", "user": "root"}
            if os.path.exists(dst + "/image.json"):
                meta.update(json.load(open(dst + "/image.json")))
            json.dump(meta, open(f"/media/startos/images/{i}.json", "w"))
            self.image_env[i] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
            if os.path.exists(dst + "/image.env"):
                self.image_env[i].update(l.split("=", 1) for l in open(dst + "/image.env").read().splitlines() if "=" in l)
            self.set_image_env(i)

    def set_image_env(self, image, **kw):
        self.image_env[image].update({k: str(v) for k, v in kw.items()})
        p = f"/media/startos/images/{image}.env"
        with open(p + ".tmp", "w") as f:
            f.write("".join(f"{k}={v}\n" for k, v in self.image_env[image].items()))
        os.replace(p + ".tmp", p)

    def vol(self, path):
        return f"/media/startos/volumes/{path}"

    def write(self, path, data, atomic=True):
        p = self.vol(path)
        if not isinstance(data, str):
            data = json.dumps(data, indent=2)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        if atomic:
            with open(p + ".tmp~", "w") as f:
                f.write(data)
            t = time.time()
            os.replace(p + ".tmp~", p)
        else:
            t = time.time()
            with open(p, "w") as f:
                f.write(data)
        return self.ev("note", text="write", path=path, atomic=atomic, data=data[:300], t=t)

    def read(self, path):
        try:
            return open(self.vol(path)).read()
        except FileNotFoundError:
            return None

    def rm(self, path):
        t = time.time()
        os.remove(self.vol(path))
        return self.ev("note", text="rm", path=path, t=t)

    # ---------- stub host: effects
    def _listen_host(self):
        s = socket.socket(socket.AF_UNIX)
        s.bind(f"{RPC_DIR}/host.sock")
        s.listen(256)

        def client(c):
            try:
                buf = b""
                while b"\n" not in buf:
                    d = c.recv(1 << 16)
                    if not d:
                        return
                    buf += d
                req = json.loads(buf.split(b"\n")[0])
                p = req.get("params") or {}
                m = req["method"]
                pe = {k: v for k, v in p.items() if k != "stack"}
                self.ev("effect", method=m, params=pe)
                try:
                    r = {"result": self.effect(m, p)}
                except Exception as e:
                    self.ev("effect-error", method=m, error=repr(e))
                    r = {"error": {"code": 1, "message": "stub", "data": {"details": repr(e)}}}
                c.sendall((json.dumps({"jsonrpc": "2.0", "id": req.get("id"), **r}) + "\n").encode())
            except OSError:
                pass
            finally:
                c.close()

        def loop():
            while True:
                c, _ = s.accept()
                threading.Thread(target=client, args=(c,), daemon=True).start()
        threading.Thread(target=loop, daemon=True).start()

    def effect(self, m, p):
        if m == "set-health":
            with self.cv:
                self.health[p["id"]] = {k: p.get(k) for k in ("name", "result", "message")}
            return None
        if m == "subcontainer.create-fs":
            return self.create_fs(p["imageId"], p.get("name"))
        if m == "subcontainer.destroy-fs":
            root = self.subs.pop(p["guid"])
            subprocess.run(["umount", "-R", "-l", root], stderr=subprocess.DEVNULL)
            shutil.rmtree(os.path.dirname(root), ignore_errors=True)
            return None
        if m == "restart":
            with self.cv:
                self.health.clear()
                if self.desired == "running":
                    self.desired, self.restart_again = "restarting", False
                elif self.desired == "restarting" and not self.started:
                    self.restart_again = True
                self.cv.notify_all()
            return None
        if m == "shutdown":
            with self.cv:
                self.desired = "stopped"; self.health.clear(); self.cv.notify_all()
            return None
        if m == "get-status":
            if p.get("callback") is not None:
                self.status_callbacks.append(p["callback"])
            d = {"main": self.desired}
            if self.desired == "restarting":
                d["restartAgain"] = self.restart_again
            return {"health": self.health, "error": None, "started": self.started, "desired": d}
        if m == "get-data-version":
            return self.data_version
        if m == "set-data-version":
            self.data_version = p.get("version")
            return None
        if m == "action.export":
            self.actions[p["id"]] = p["metadata"]
            return None
        if m == "action.clear":
            self.actions = {k: v for k, v in self.actions.items() if k in (p.get("except") or [])}
            return None
        if m == "action.create-task":
            # startd: an active critical task stops the service, and blocks start until it is run
            with self.cv:
                self.tasks[p.get("replayId")] = {k: v for k, v in p.items() if k != "eventId"}
                if p.get("severity") == "critical" and "when" not in p and self.desired != "stopped" and not self.a.ignore_critical:
                    self.desired = "stopped"; self.health.clear(); self.cv.notify_all()
                    self.ev("host", text="critical task: service stopped", task=p.get("replayId"))
            return None
        if m == "action.clear-tasks":
            if "only" in p:
                for k in p["only"]:
                    self.tasks.pop(k, None)
            elif "except" in p:
                self.tasks = {k: v for k, v in self.tasks.items() if k in p["except"]}
            return None
        if m == "action.get-input":
            return self.rpc("execute", {"id": "e", "procedure": f"/actions/{p['actionId']}/getInput", "input": {}, "timeout": None})
        if m == "action.run":
            return self.rpc("execute", {"id": "e", "procedure": f"/actions/{p['actionId']}/run", "input": {"input": p.get("input")}, "timeout": None})
        if m == "bind":
            self.bindings.append({k: v for k, v in p.items() if k not in ("stack", "eventId")})
            return None
        if m == "export-service-interface":
            self.interfaces[p["id"]] = {k: v for k, v in p.items() if k != "eventId"}
            return None
        if m == "list-service-interfaces":
            return self.interfaces
        if m == "get-service-interface":
            return self.interfaces.get(p.get("serviceInterfaceId"))
        if m == "get-host-info":
            return self.host(p["hostId"])
        if m == "get-container-ip":
            return "10.0.3.10"
        if m == "get-os-ip":
            return "10.0.3.1"
        if m in ("get-installed-packages", "get-dependencies", "check-dependencies"):
            return []
        if m == "get-service-manifest":
            return self.manifest
        return None

    def host(self, host_id):
        """The type Host of the SDK, from what was bound and exported; None for one that nothing is bound to."""
        bound = {}
        for b in self.bindings:
            if b["id"] == host_id:
                own = {i: {k: v for k, v in x.items() if k != "id"} | {"id": i} for i, x in self.interfaces.items()
                       if (x["addressInfo"]["hostId"], x["addressInfo"]["internalPort"]) == (host_id, b["internalPort"])}
                bound[b["internalPort"]] = {
                    "enabled": True, "options": {k: v for k, v in b.items() if k not in ("id", "internalPort")},
                    "net": {"assignedPort": 49152, "assignedSslPort": 49153}, "interfaces": own,
                    "addresses": {"enabled": self.public_enabled, "disabled": [], "guaWan": [], "available": self.addresses}}
        if not bound:
            return None
        return {"bindings": bound, "bindingRanges": {}, "publicDomains": {}, "privateDomains": {}, "portForwards": []}

    def create_fs(self, image, name):
        if image not in self.manifest["images"]:
            raise RuntimeError(f"no image {image}")
        with self.cv:
            self.guid += 1
            guid = f"sub{self.guid:04d}"
        base = f"/media/startos/subcontainers/{guid}"
        for d in ("u", "w", "rootfs"):
            os.makedirs(f"{base}/{d}")
        root = f"{base}/rootfs"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir=/media/startos/image-fs/{image}:/,upperdir={base}/u,workdir={base}/w", root], check=True)
        for d in self.a.bind or []:  # what lies on a mount of its own is not in the overlay
            os.makedirs(root + d, exist_ok=True)
            subprocess.run(["mount", "--rbind", d, root + d], check=True)
        self.subs[guid] = root
        return [root, guid]

    # ---------- process events from the fake start-container / fake images
    def _listen_events(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        s.bind("\0s9h-events")

        def loop():
            while True:
                e = json.loads(s.recv(1 << 16))
                self.ev("proc", **e)
        threading.Thread(target=loop, daemon=True).start()

    # ---------- runtime
    def start_runtime(self):
        env = dict(os.environ, PATH="/usr/bin:" + os.environ["PATH"])
        self.rt = subprocess.Popen(["node", "--experimental-detect-module", "--trace-warnings", self.a.runtime],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, stdin=subprocess.DEVNULL)

        def pump():
            for l in self.rt.stdout:
                self.ev("log", line=l.rstrip("\n"))
            self.ev("runtime-exit", code=self.rt.wait())
        threading.Thread(target=pump, daemon=True).start()
        for _ in range(400):
            if os.path.exists(f"{RPC_DIR}/service.sock"):
                return
            time.sleep(0.05)
        raise RuntimeError("runtime did not start")

    def rpc(self, method, params=None, timeout=None):
        with self.cv:
            self.rpc_id += 1
            i = self.rpc_id
        t = time.time()
        self.ev("rpc", method=method, params=params)
        c = socket.socket(socket.AF_UNIX)
        c.settimeout(timeout)
        c.connect(f"{RPC_DIR}/service.sock")
        msg = {"jsonrpc": "2.0", "id": i, "method": method}
        if params is not None:
            msg["params"] = params
        c.sendall((json.dumps(msg) + "\n").encode())
        buf = b""
        while not buf.endswith(b"\n"):
            d = c.recv(1 << 16)
            if not d:
                break
            buf += d
        c.close()
        r = json.loads(buf) if buf else {"error": {"message": "connection closed"}}
        self.ev("rpc-reply", method=method, ms=round(1000 * (time.time() - t)), **{k: r[k] for k in ("result", "error") if k in r})
        if "error" in r:
            raise RpcError(json.dumps(r["error"])[:2000])
        return r.get("result")

    def init(self, kind="install"):
        return self.rpc("init", {"id": "init-ev", "kind": kind})

    def action_input(self, aid, prefill=None, ev=None):
        return self.rpc("execute", {"id": ev or self.event_id(), "procedure": f"/actions/{aid}/getInput", "input": {"prefill": prefill}, "timeout": None}, timeout=30)

    def event_id(self):
        with self.cv:
            self.rpc_id += 1
            return f"act{self.rpc_id}"

    def action_run(self, aid, inp=None, get_input=True):
        # the UI fetches the form first and runs with the same event id; the SDK refuses
        # ("getActionInput has not been called for EventID ...") when that did not happen.
        ev = self.event_id()
        if get_input and self.actions.get(aid, {}).get("hasInput"):
            self.action_input(aid, ev=ev)
        # startd's limits: getInput 30 s, run 120 s; a run clears the action's unconditional tasks
        r = self.rpc("execute", {"id": ev, "procedure": f"/actions/{aid}/run", "input": {"input": inp}, "timeout": None}, timeout=120)
        with self.cv:
            self.tasks = {k: t for k, t in self.tasks.items() if t.get("actionId") != aid or t.get("when")}
        return r

    def backup(self):
        return self.rpc("execute", {"id": "bk", "procedure": "/backup/create", "input": None, "timeout": None})

    # ---------- startd's service actor (desired/started reconciliation)
    def _actor(self):
        while True:
            with self.cv:
                while True:
                    if self.desired in ("running", "restarting") and not self.started:
                        todo = "start"; break
                    if self.desired in ("stopped", "restarting") and self.started:
                        todo = "stop"; break
                    self.cv.wait()
            try:
                self.rpc(todo)
            except Exception as e:
                if self.closing:
                    return
                self.ev("host", text=f"{todo} failed; startd retries in {COOLDOWN:.0f}s", error=str(e)[:300])
                time.sleep(COOLDOWN)
                continue
            with self.cv:
                if todo == "start":
                    self.started = time.strftime("%FT%TZ", time.gmtime())
                    if self.desired == "restarting":
                        if self.restart_again:
                            self.restart_again = False
                        else:
                            self.desired = "running"
                else:
                    self.started = None
                    self.health.clear()
                self.ev("host", text=f"{todo} done", desired=self.desired, started=self.started)
                self.cv.notify_all()

    def start(self, wait=True, timeout=60, force=False):
        with self.cv:
            if not force and any(t.get("severity") == "critical" and not t.get("when") for t in self.tasks.values()):
                self.ev("host", text="start refused: critical task pending", tasks=list(self.tasks))
                return False
            self.desired = "running"; self.cv.notify_all()
            if wait:
                self.cv.wait_for(lambda: self.started, timeout)
            return bool(self.started)

    def stop(self, timeout=120):
        with self.cv:
            self.desired = "stopped"; self.health.clear(); self.cv.notify_all()
            self.cv.wait_for(lambda: not self.started, timeout)

    def restart(self):
        self.effect("restart", {})

    def exit(self, target=None):
        self.closing = True
        try:
            return self.rpc("exit", {"id": "exit-ev", "target": target}, timeout=90)
        except OSError as e:
            self.note("exit: " + repr(e))

    def wait_health(self, hid, result, timeout=60, since=0):
        return self.wait(lambda e: e["type"] == "effect" and e["method"] == "set-health" and
                         e["params"]["id"] == hid and e["params"]["result"] == result, timeout, since)

    def proc(self, ev, src="vllm", timeout=30, since=0):
        return self.wait(lambda e: e["type"] == "proc" and e.get("src") == src and e.get("ev") == ev, timeout, since)

    def health_log(self, since=0, until=None):
        """condensed set-health history: [(rel, id, result, message, count)]"""
        r = []
        for e in self.events[since:until]:
            if e["type"] == "effect" and e["method"] == "set-health":
                p = e["params"]
                k = (p["id"], p["result"], p.get("message"))
                if r and r[-1][1:4] == k:
                    r[-1] = r[-1][:4] + (r[-1][4] + 1, e["rel"])
                else:
                    r.append((e["rel"],) + k + (1, e["rel"]))
        return r

    def close(self):
        self.closing = True
        if self.rt and self.rt.poll() is None:
            self.rt.kill()


def steps(h, todo):
    for s in todo:
        op, _, rest = s.partition(":")
        if op == "init": h.init({"": "install", "null": None}.get(rest, rest))
        elif op == "action-input": h.action_input(rest)
        elif op == "action-run":
            aid, _, j = rest.partition(":"); h.action_run(aid, json.loads(j) if j else None)
        elif op == "start": h.start()
        elif op == "stop": h.stop()
        elif op == "restart": h.restart()
        elif op == "exit": h.exit(rest or None)
        elif op == "backup": h.backup()
        elif op == "wait": time.sleep(float(rest))
        elif op == "wait-health":
            f = rest.split(":"); r = h.wait_health(f[0], f[1], float(f[2]) if len(f) > 2 else 60)
            if not r: h.note(f"TIMEOUT waiting for health {rest}")
        elif op in ("write", "write-inplace"):
            p, _, d = rest.partition(":"); h.write(p, d, atomic=op == "write")
        elif op == "rm": h.rm(rest)
        elif op == "image-env":
            i, _, kv = rest.partition(":"); h.set_image_env(i, **dict([kv.split("=", 1)]))
        elif op == "cmd":
            r = subprocess.run(rest, shell=True, capture_output=True, text=True)
            h.note("cmd", cmd=rest, rc=r.returncode, out=(r.stdout + r.stderr)[:2000])
        else: sys.exit(f"unknown step {s}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--package", required=True); ap.add_argument("--volumes", required=True)
    ap.add_argument("--runtime", default=os.environ.get("S9_RUNTIME", os.path.join(HERE, "lite_runtime.js")))
    ap.add_argument("--image", action="append"); ap.add_argument("--bind", action="append"); ap.add_argument("--out"); ap.add_argument("--backup-dir", help="kept outside: backup in one run, init:restore in another"); ap.add_argument("--quiet", action="store_true")
    ap.add_argument("--ignore-critical", action="store_true"); ap.add_argument("--scenario"); ap.add_argument("--steps", nargs="*")
    ap.add_argument("rest", nargs="*")
    a = ap.parse_args()
    for k in ("package", "volumes", "runtime"):
        setattr(a, k, os.path.abspath(getattr(a, k)))
    os.makedirs(a.volumes, exist_ok=True)
    if not os.environ.get("S9H_INNER"):
        # own mount, net and pid namespaces: leaving takes every process along
        os.environ["S9H_INNER"] = "1"
        os.execvp("unshare", ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private", sys.executable] + sys.argv)
    child = os.fork()
    if child:  # PID 1 of the namespace: reap orphans (else a dying PID namespace waits for ever), pass the status on
        while True:
            pid, st = os.wait()
            if pid == child:
                os._exit(os.waitstatus_to_exitcode(st) & 0xFF)
    if not os.path.exists(a.runtime):
        sys.exit(f"no runtime at {a.runtime}")
    sys.modules["s9harness"] = sys.modules["__main__"]
    h = Harness(a)
    h.start_runtime()
    rc = 0
    try:
        if a.scenario:
            sys.path.insert(0, os.path.dirname(os.path.abspath(a.scenario)))
            g = {"__name__": "scenario", "h": h, "args": a.rest, "RpcError": RpcError}
            exec(compile(open(a.scenario).read(), a.scenario, "exec"), g)
            rc = int(g.get("failures", 0) or 0)
        else:
            steps(h, a.steps or [])
    finally:
        h.close()
    sys.exit(min(rc, 100))


if __name__ == "__main__":
    main()
