"""The states of the three coupled machines."""

from enum import Enum


class Service(Enum):
    """What a user of the API has. The five public states, in the order in which they are named (`naming`)."""

    NO_MODEL = "NoModel"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"


class Engine(Enum):
    """The life of one engine process with everything in its session."""

    ABSENT = "Absent"
    """Nothing of the last engine is left: reaped, its session empty, GPU memory back or waited for long enough."""
    ALIVE = "Alive"
    """Asked to start, starting or serving."""
    TERMINATING = "Terminating"
    """Asked to stop, or ended by itself and not yet vacated."""


class Download(Enum):
    """The life of the fetch of the wanted model's weights."""

    IDLE = "Idle"
    CHECKING = "Checking"
    """Looking whether the cache already holds what the engine will read."""
    RUNNING = "Running"
    WAITING = "Waiting"
    """Between two attempts."""


class Phase(Enum):
    """What a starting engine is doing, in the order in which it does it; one that is not needed is left out."""

    IMPORTS = "Imports"
    """The server reads its modules."""
    CONFIGURATION = "Configuration"
    """It reads the arguments and the model's configuration."""
    PROCESSES = "Processes"
    """The engine's own processes read their modules."""
    WEIGHTS = "Weights"
    COMPILATION = "Compilation"
    """Also the first run, by which the memory is measured."""
    MEMORY = "Memory"
    """The cache for keys and values is sized and made."""
    GRAPHS = "Graphs"
    """The calls of the GPU are recorded, to be replayed."""
    LISTENING = "Listening"
    """The server is made ready to answer."""
    READY = "Ready"
    """The start is over."""
