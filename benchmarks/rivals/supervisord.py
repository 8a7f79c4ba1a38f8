"""supervisord: restarts what ends. A helper follows the file, since it does not."""

from __future__ import annotations

import shlex

from rivals import tools
from rivals.place import LIMIT
from rivals.supervisor import GRACE, Supervisor

CONFIGURATION = """\
[supervisord]
nodaemon=true
user=root
logfile=/dev/stdout
logfile_maxbytes=0
loglevel=info
pidfile={root}/supervisord.pid
[unix_http_server]
file={root}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{root}/supervisor.sock
[program:server]
command={command}
autorestart=true
startretries=1000
stopwaitsecs={grace}
stopasgroup=true
killasgroup=true
stdout_logfile=/dev/null
stderr_logfile=/dev/null
"""


class Supervisord(Supervisor):
    """Its RUNNING says that a process has lived for a second, not that it is ready."""

    name = "supervisord"
    how = (
        f"`autorestart=true`, `stopasgroup`, `killasgroup`, `stopwaitsecs={GRACE}`; "
        "a helper runs `supervisorctl restart` when the file changed"
    )
    helper = "supervisorctl restart"
    program = "supervisord"

    @classmethod
    def version(cls) -> str:
        """Ask the program."""
        return tools.version(str(tools.find("supervisord")), "--version")

    def begin(self) -> None:
        """Write the configuration and start it, and the helper."""
        root = self.place.root
        file = root / "supervisord.conf"
        file.write_text(CONFIGURATION.format(root=root, command=shlex.join(self.place.server), grace=GRACE))
        self.run(str(tools.find("supervisord")), "-c", str(file))
        self.follow(str(tools.find("supervisorctl")), "-c", str(file), "restart", "server")

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Wait for RUNNING, the nearest that it says."""
        return self.says(lambda line: "entered RUNNING state" in line, since, limit)
