"""A restore on an empty machine, then a start."""

import os

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.init("restore")
d.tell(tasks=dict(h.tasks), key=d.json("public/credentials.json"), volume=sorted(os.listdir(h.vol("main"))))
d.tell(started=h.start(), ready=d.shows("success"))
d.end(args[0])
