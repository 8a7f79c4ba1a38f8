"""A whole life: install, choose, start, copy the key, change, spoil files, replace the key, crash, back up, clear."""

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.init()
d.tell(tasks=dict(h.tasks), key=d.json("public/credentials.json"), actions=h.actions, interfaces=h.interfaces)
d.tell(bindings=h.bindings, installing=d.calls(), startWithoutModel=h.start())

d.tell(form=h.action_input("set-model"))
d.tell(refusals=[d.refusal("set-model", d.custom(text)) for text in ('tiny "--seed 1', "tiny --max-modl-len 5", "")])
d.tell(storeAfterRefusals=d.json("main/store.json"))
report = [("RUDE_REPORT", "/data/report.json")]
d.tell(chosen=h.action_run("set-model", d.custom("tiny --max-model-len 4096", report, "hf_abcdefgh")))
mark = h.mark()
d.tell(store=d.json("main/store.json"), tasksAfterwards=dict(h.tasks), started=h.start())
d.tell(ready=d.shows("success"), next=d.shows("disabled", check="download"), engine=d.json("main/report.json"))
d.tell(comingUp=d.looks(mark))
d.tell(prefilled=h.action_input("set-model")["value"], access=h.action_run("get-api-credentials"))
d.tell(again=h.action_run("set-model", h.action_input("set-model")["value"]))
d.tell(attemptAfterTheSame=d.report()["attempt"])

# The same key, with the ways to the service that this machine has.
lan = {"kind": "ipv4", "gateway": "eth0"}
h.addresses = [
    {"ssl": ssl, "public": public, "hostname": name, "port": port + ssl, "metadata": metadata}
    for name, port, public, metadata in (
        ("192.168.1.20", 49152, False, lan),
        ("adjective-noun.local", 49152, False, {"kind": "mdns", "gateways": ["eth0"]}),
        ("fd00::20", 49152, False, {"kind": "ipv6", "gateway": "eth0", "scopeId": 2}),
        ("203.0.113.7", 49152, True, lan),
        ("198.51.100.9", 49152, True, lan),
        ("10.0.3.1", 49152, False, {"kind": "ipv4", "gateway": "lxcbr0"}),
        ("localhost", 49152, False, lan),
        ("llm.example.org", 442, False, {"kind": "private-domain", "gateways": ["eth0"]}),
    )
    for ssl in (False, True)
]
h.public_enabled = ["198.51.100.9:49153"]
d.tell(addresses=[one["value"] for one in h.action_run("get-api-credentials")["result"]["value"][1:]])

# A change is followed, and nothing of the package restarts.
h.action_run("set-model", d.custom("tiny --max-model-len 2048", report))
d.until(lambda: d.report() and d.report()["attempt"] == 2)
d.shows("success")
d.until(lambda: "2048" in d.json("main/report.json")["argv"])

h.write("main/store.json", "{ nonsense")
d.tell(broken=d.shows("success", "store.json"), tasksWhileBroken=dict(h.tasks))
d.tell(repaired=h.action_run("set-model", d.custom("tiny --max-model-len 2048")))
d.until(lambda: "store.json" not in h.health["primary"]["message"])

h.rm("public/credentials.json")
d.tell(newKey=d.until(lambda: d.json("public/credentials.json")))
d.until(lambda: d.report() and d.report()["attempt"] == 4)
d.tell(readyAgain=d.shows("success"))

# The key's file is broken: the key in force stays, and the action that is named makes a new one.
h.write("public/credentials.json", "neither")
d.tell(keyBroken=d.shows("success", "credentials.json"), keyRefused=d.refusal("get-api-credentials", None))
d.tell(rotated=h.action_run("rotate-api-key"), rotatedKey=d.json("public/credentials.json"))
d.until(lambda: d.report() and d.report()["attempt"] == 5)
d.until(lambda: "credentials.json" not in d.shows("success"))

# A crash of everything at once, as when memory is short.
d.kill()
d.tell(crashed=d.shows("failure"))
d.until(lambda: d.report() and d.report()["state"] == "Ready" and d.report()["attempt"] == 1)
d.tell(recovered=d.shows("success"))

# StartOS stops a service that it backs up.
h.stop()
d.tell(healthWhenStopped=dict(h.health))
h.backup()
h.start()
d.shows("success")
d.tell(models=h.action_input("delete-model-cache"))
d.tell(deletion=d.refusal("delete-model-cache", {"model": "tiny", "force": False}))

h.write("main/store.json", {})
d.until(lambda: h.tasks and not h.started, what="the task is back, and StartOS has stopped the service")
d.tell(tasksWhenCleared=dict(h.tasks), deleted=h.action_run("delete-model-cache", {"model": "tiny", "force": False}))
# Chosen again, and stopped while it fails.
h.action_run("set-model", d.custom("./none --load-format dummy"))
d.tell(startedAgain=h.start(), servedAgain=d.shows("failure", "none"))
spawned = [event["argv"] for event in h.events if event.get("what") == "exec" and event.get("ev") == "spawn"]
d.tell(restarts=d.effects("restart"), daemons=[argv for argv in spawned if "action" not in argv])
d.tell(mounts=[[e["source"], e["target"]] for e in h.events if e.get("ev") == "bind-mount"])
d.tell(unfounded=d.unfounded())
d.end(args[0])
