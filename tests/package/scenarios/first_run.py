"""Install, choose, start, copy the key, change, make it wrong, clear, back up."""

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.init()
d.tell(tasks=dict(h.tasks), key=d.json("public/credentials.json"), actions=h.actions, interfaces=h.interfaces)
d.tell(bindings=h.bindings, startWithoutModel=h.start())

d.tell(form=h.action_input("set-model"))
d.tell(refusals=[d.refusal("set-model", d.custom(text)) for text in ('tiny "--seed 1', "tiny --max-modl-len 5", "")])
d.tell(storeAfterRefusals=d.json("main/store.json"))
report = [("RUDE_REPORT", "/data/report.json")]
d.tell(chosen=h.action_run("set-model", d.custom("tiny --max-model-len 4096", report, "hf_abcdefgh")))
d.tell(store=d.json("main/store.json"), tasksAfterwards=dict(h.tasks), started=h.start())
d.tell(ready=d.shows("success"), next=d.shows("disabled", check="download"), engine=d.json("main/report.json"))
d.tell(prefilled=h.action_input("set-model")["value"], access=h.action_run("get-api-credentials"))
d.tell(again=h.action_run("set-model", h.action_input("set-model")["value"]))
d.tell(attemptAfterTheSame=d.report()["attempt"])

# A change is followed, and nothing of the package restarts.
mark = h.mark()
h.action_run("set-model", d.custom("tiny --max-model-len 2048", report))
d.until(lambda: d.report() and d.report()["attempt"] == 2)
d.shows("success")
d.until(lambda: "2048" in d.json("main/report.json")["argv"])

h.write("main/store.json", "{ nonsense")
d.tell(broken=d.shows("success", "store.json"), tasksWhileBroken=dict(h.tasks))
d.tell(repaired=h.action_run("set-model", d.custom("tiny --max-model-len 2048")))
d.until(lambda: "store.json" not in h.health["primary"]["message"])

h.rm("public/credentials.json")
key = d.until(lambda: d.json("public/credentials.json"))
d.until(lambda: d.report() and d.report()["attempt"] == 4)
d.tell(newKey=key, readyAgain=d.shows("success"))

h.backup()
d.tell(models=h.action_input("delete-model-cache"))
d.tell(deletion=d.refusal("delete-model-cache", {"model": "tiny", "force": False}))

h.write("main/store.json", {})
d.until(lambda: h.tasks and not h.started, what="the task is back, and StartOS has stopped the service")
d.tell(tasksWhenCleared=dict(h.tasks), deleted=h.action_run("delete-model-cache", {"model": "tiny", "force": False}))
# Chosen again, and stopped while it serves.
h.action_run("set-model", d.custom("./none --load-format dummy"))
d.tell(startedAgain=h.start(), servedAgain=d.shows("failure", "none"))
spawned = [event["argv"] for event in h.events if event.get("what") == "exec" and event.get("ev") == "spawn"]
d.tell(restarts=d.effects("restart"), daemons=[argv for argv in spawned if "action" not in argv])
d.tell(mounts=[[e["source"], e["target"]] for e in h.events if e.get("ev") == "bind-mount"])
d.end(args[0])
