"""The real vLLM with a tiny model: from the form to a completion."""

import http.client
import json

from dashboard import Dashboard, processes

d = Dashboard(h, RpcError)


def ask(path, key=None, body=None):
    """One request to the API, as a client of the service sends it."""
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    with connection.getresponse() as answer:
        return answer.status, answer.read().decode()


h.init()
arguments = "/data/tiny-model --dtype float32 --enforce-eager --served-model-name tiny --max-model-len 128"
variables = [("VLLM_CPU_KVCACHE_SPACE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1")]
h.action_run("set-model", d.custom(arguments, variables))
d.tell(started=h.start(), ready=d.shows("success", timeout=480.0))
key = h.action_run("get-api-credentials")["result"]["value"][0]["value"]
d.tell(refused=ask("/v1/models")[0])
text = ask("/v1/completions", key, {"model": "tiny", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True})[1]
d.tell(completion=json.loads(text), running=processes(), unfounded=d.unfounded())
d.end(args[0])
