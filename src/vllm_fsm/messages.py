"""The English sentences, by message id. Other languages translate these ids with the same parameters.

A message is `Message(id, params)`; `text` fills the sentence in. Numbers arrive ready for people: whoever makes a
message rounds. A report is a row of messages, joined by blanks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_fsm.core.snapshot import Message

ENGLISH: Final[dict[str, str]] = {
    # --- what the service does ---
    "NoModel": 'No model selected. Run the "Set Model" action.',
    "Downloading": "Downloading {repo}.",
    "DownloadingSize": "Downloading {repo}: {done} of {total} GB ({percent} %).",
    "DownloadingSpeed": "Downloading {repo}: {done} of {total} GB ({percent} %), {speed} MB/s.",
    "DownloadingTime": "Downloading {repo}: {done} of {total} GB ({percent} %), {speed} MB/s, {minutes} min left.",
    "Loading": (
        "The vLLM API is starting. A first-time model download plus load can take 30+ minutes; loading an "
        "already-cached model can take 15+ minutes. Exact time depends on your hardware resources and network "
        "bandwidth."
    ),
    "StoppingLast": "The last engine is being stopped.",
    "Ready": "The vLLM API is ready",
    "ReadyNext": "The vLLM API is ready. {repo} is downloading",
    "ReadyNextSize": "The vLLM API is ready. {repo} is downloading: {percent} %",
    "ReadyNextTime": "The vLLM API is ready. {repo} is downloading: {percent} %, {minutes} min left",
    "ReadyKept": "The vLLM API is ready. It still serves {model}, because what was chosen since cannot be served:",
    "Stopping": "The service is stopping.",
    "NextTry": "Next try at {time} UTC.",
    "NextTryOf": "Next try at {time} UTC, number {number} of {most}.",
    # --- why it does not serve, and what to do ---
    "StartupTimeout": "The vLLM API did not come up within {minutes} minutes. Check the service logs for errors.",
    "PortTaken": (
        "Port {port} is in use by {holder}. End that program; the engine then starts by itself within seconds."
    ),
    "BadArguments": 'The serve arguments cannot be used: {detail}. Correct them with the "Set Model" action.',
    "EngineNotFound": "The engine command {command} was not found. Check the --engine setting.",
    "EngineNotExecutable": "The engine command {command} cannot be executed ({error}). Check the --engine setting.",
    "EngineStartFailed": "The engine could not be started ({error}). Check the service logs for errors.",
    "EngineExited": "The engine ended by itself with exit status {status}. Check the service logs for errors.",
    "EngineKilled": (
        "The engine was ended by signal {signal}. Often the machine ran out of memory: choose a smaller model."
    ),
    "EngineDead": "The engine died while its server still answered. Check the service logs for errors.",
    "EngineUnresponsive": (
        "The engine answers no requests. It is restarted in {restart_seconds} s unless it answers again."
    ),
    "LeftoversRemain": (
        "Processes of an earlier engine do not end: {processes}. The next one starts when they are gone."
    ),
    "EffectFailed": "An internal step failed ({effect}: {error}). It is tried again.",
    "DownloadFailed": "The model could not be downloaded ({error}). Check the network.",
    # --- what else should be known: the files. No parameter holds what stands in a file, which may be a key ---
    "FileNotJson": (
        "Ignoring {file}: not valid JSON at line {line}, column {column} ({detail}). "
        "Correct it; the change is taken without a restart."
    ),
    "FileNotUtf8": "Ignoring {file}: byte {offset} is not UTF-8 text. Save it as UTF-8.",
    "FileHasNul": "Ignoring {file}: byte {offset} is a NUL, as a write cut off by a power failure leaves them. "
    "Correct it; the change is taken without a restart.",
    "FileEmpty": "Ignoring {file}: it is empty. To select nothing, write {{}}.",
    "FileDuplicateKey": "Ignoring {file}: {key} stands twice in one object. Remove one of them.",
    "FileTooDeep": (
        "Ignoring {file}: nested more than {limit} levels deep. Correct it; the change is taken without a restart."
    ),
    "FileNumberTooLarge": (
        "Ignoring {file}: it holds a number that is too large. Correct it; the change is taken without a restart."
    ),
    "FileNotANumber": (
        "Ignoring {file}: it holds NaN or Infinity, which JSON does not have. "
        "Correct it; the change is taken without a restart."
    ),
    "FileWrongShape": (
        "Ignoring {file}: {field} must be {expected}, not {found}. Correct it; the change is taken without a restart."
    ),
    "FileFieldMissing": "Ignoring {file}: {field} is missing. Correct it; the change is taken without a restart.",
    "FileTooLarge": "Ignoring {file}: larger than {limit} bytes. Correct it; the change is taken without a restart.",
    "FileUnreadable": "Ignoring {file}: it cannot be read ({detail}). Correct its permissions or its volume.",
    "FileIsNoFile": "Ignoring {file}: it is {what}, not a file. Remove it or put a file in its place.",
    "FileLinkDangling": "Ignoring {file}: a symbolic link that leads nowhere. Remove it or put a file in its place.",
    "FileBadKey": "Ignoring {file}: apiKey must be 1 to {limit} printable ASCII characters without blanks. "
    "Correct it, or remove it to get a new one.",
    "WriteIsNoFile": "{file} was not written: {what} stands in its place and is never replaced. Remove it first.",
    "WriteReadOnly": "{file} was not written: its volume is read-only.",
    "WriteDenied": "{file} was not written: no permission to change its directory.",
    "WriteNoSpace": "{file} was not written: no space is left on its volume.",
    "WriteNoDirectory": "{file} was not written: its directory does not exist.",
    "WriteIsMount": "{file} was not written: it is a mount of its own and cannot be replaced. "
    "Mount its directory instead.",
    "WriteTooLarge": "{file} was not written: it would be larger than {limit} bytes.",
    "WriteFailed": "{file} was not written: {detail}.",
    "CredentialsUnwritable": "There is no API key, and none can be stored in {path}. {error}",
    "KeyNotRotated": "{file} asks for a new API key, which could not be stored; the running key stays. {detail}",
    "CredentialsReplaced": "{file} could not be used and is kept as {aside}; a new API key was made.",
    # --- what else should be known: the arguments ---
    "ReservedArgument": "The argument {argument} is reserved for the service and was left out.",
    "ReservedVariable": "The variable {name} is reserved for the service and was left out.",
    "DuplicateVariable": "The variable {name} is given twice; the last value counts.",
    # --- presets: why one is not offered, and what is wrong with a file of them ---
    "PresetNeedsMemory": "Needs {needs} GiB, has {has}.",
    "PresetNeedsMemoryOfSeveral": "Needs {needs} GiB, has {has} on {used} of {devices} GPUs.",
    "PresetMemoryUnknown": "Needs {needs} GiB, and it is not known how much there is.",
    "PresetNeedsFp8": "Needs a GPU that calculates in FP8 (gfx942, gfx950, gfx1200 or gfx1201).",
    "PresetNeedsGpu": "Needs a GPU that is known here, and there is none.",
    "PresetOtherHardware": "No build of it is known for {tier}.",
    "PresetSpread": "It is spread over {devices} GPUs, which was not tried on hardware.",
    "PresetInvalid": "Ignoring {file}: {field} must be {expected}. Correct it; the built-in presets stay.",
    # --- what is said of arguments before a start. Values are quoted already, or only their length is told ---
    "ArgumentReserved": "{argument} is set by the service itself, or would change how it is reached; remove it.",
    "VariableReserved": "The variable {name} is set by the service itself; remove it.",
    "VariableTwice": "The variable {name} is given twice; remove one.",
    "FlagUnknown": "vLLM has no flag {flag}; remove it.",
    "FlagUnknownMeant": "vLLM has no flag {flag}; perhaps {meant} was meant.",
    "FlagAmbiguous": "{flag} is the beginning of several flags ({meant}); write the whole name.",
    "FlagNeedsValue": "{flag} needs a value behind it.",
    "FlagTakesNoValue": "{flag} is a switch without a value; remove {value}.",
    "FlagNeedsFlag": "{flag} works only together with {other}; add that, or remove {flag}.",
    "FlagsExclude": "{flag} does not work together with {other}; remove one of them.",
    "FlagTakesNoPath": "{flag} takes no JSON path; what is behind the dot becomes part of a JSON text.",
    "PathNeedsValue": "{flag} with a JSON path needs a value; write it as in --flag.path=value.",
    "NumberLooksLikeFlag": "vLLM takes {value} for a flag; write it behind an equals sign, as in --flag={value}.",
    "ArgumentExtra": "{argument} belongs to no flag; only the model's name stands by itself.",
    "ArgumentExtraMeant": "{argument} belongs to no flag; perhaps {meant} was meant.",
    "ValueNoInteger": "{flag} takes a whole number, not {value}.",
    "ValueNoNumber": "{flag} takes a number, not {value}.",
    "ValueNoSize": "{flag} takes a whole number like 4096, 4k (4000) or 4K (4096), not {value}.",
    "ValueNoSizeOrAuto": "{flag} takes a whole number like 4096, 4k (4000) or 4K (4096), or auto, not {value}.",
    "ValueNegative": "{flag} takes 0 or more, not {value}.",
    "ValueNoChoice": "{flag} does not take {value}, but one of {choices}.",
    "ValueNoChoiceMeant": "{flag} does not take {value}; perhaps {meant} was meant.",
    "ValueNoJson": "The value of {flag} is not valid JSON at its character {character} ({detail}).",
    "ValueNoObject": "The value of {flag} must be a JSON object.",
    "ValueJsonTooLarge": "The value of {flag} holds JSON that is too deep or has a number that is too long.",
    "ValueNotChecked": "The value of {flag} is checked only when the engine starts.",
    "KeyUnknown": "The JSON object of {flag} has no key {value}, but {choices}.",
    "KeyUnknownMeant": "The JSON object of {flag} has no key {value}; perhaps {meant} was meant.",
    "KeyMissing": "The JSON object of {flag} needs the key {key}.",
    "NameUnknown": "vLLM knows no {value} for {flag}, but {choices}.",
    "NameUnknownMeant": "vLLM knows no {value} for {flag}; perhaps {meant} was meant.",
    "NameUnusual": "vLLM by itself knows no {value} for {flag}, but {choices}. Plugins may add names.",
    "NameUnusualMeant": "vLLM by itself knows no {value} for {flag}, but {meant}. Plugins may add names.",
    "ChatTemplateMissing": "The chat template {path} does not exist; correct its path.",
    "VersionOther": (
        "The engine is vLLM {engine}, while the flags of vLLM {known} are known here: what is wrong by these is only a "
        "warning."
    ),
    "VersionUnknown": (
        "The engine's version cannot be found out, while the flags of vLLM {known} are known here: what is wrong by "
        "these is only a warning."
    ),
    "ArgumentsTooLong": "The arguments are {length} characters long; at most {limit} are taken.",
    "QuoteNotClosed": "The quote {quote} at character {character} is not closed; close it, or put a \\ before it.",
    "NothingEscaped": "The \\ at character {character} has nothing behind it; remove it, or write \\\\.",
    "CharacterRefused": "The character {code} at character {character} cannot be seen and cannot be meant; remove it.",
}


def text(message: Message) -> str:
    """Return the English sentence.

    Raises:
        KeyError: no such message, or a parameter of its sentence is missing.
    """
    return ENGLISH[message.id].format(**dict(message.params))


def sentences(messages: Iterable[Message]) -> str:
    """Return the English sentences in a row; one that is followed by another gets its full stop."""
    row = ""
    for message in messages:
        row += ("" if not row else " " if row.endswith((".", ":")) else ". ") + text(message)
    return row
