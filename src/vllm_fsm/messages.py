"""The English sentences, by message id. Other languages translate these ids with the same parameters.

A message is `Message(id, params)`; `text` fills the sentence in. Numbers arrive ready for people: whoever makes a
message rounds. A report is a row of messages, joined by blanks.
"""

from __future__ import annotations

from string import Formatter
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
    "LoadingFallback": (
        "The fallback {model}, which was ready last, is started, because what was chosen since cannot be served:"
    ),
    "PhaseImports": "Reading the programs.",
    "PhaseConfiguration": "Reading the model's configuration.",
    "PhaseProcesses": "Starting the engine's processes.",
    "PhaseWeights": "Loading the weights.",
    "Weights": "Weights {done}/{total}.",
    "PhaseCompilation": "Compiling the model for this machine.",
    "PhaseMemory": "Dividing up the memory.",
    "PhaseGraphs": "Recording the GPU's work.",
    "PhaseListening": "Getting ready to answer.",
    "LookOverdue": "Looking for the files of {model} takes long: a disk is slow or does not answer.",
    "StoppingLast": "The last engine is being stopped.",
    "Ready": "The vLLM API is ready",
    "ReadyNext": "The vLLM API is ready. {repo} is downloading",
    "ReadyNextSize": "The vLLM API is ready. {repo} is downloading: {percent} %",
    "ReadyNextTime": "The vLLM API is ready. {repo} is downloading: {percent} %, {minutes} min left",
    "ReadyKept": "The vLLM API is ready. It still serves {model}, because what was chosen since cannot be served:",
    "ReadyFallback": (
        "The vLLM API is ready. It serves the fallback {model}, which was ready last, because what was chosen since "
        "cannot be served:"
    ),
    "FailedFallback": "The fallback {model}, which was ready last, failed too:",
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
    "GuardNotLoaded": (
        "vLLM cannot load what --guard all needs: its Python ignores PYTHONPATH, as with the option -I or -E. Take "
        "that option out of the first line of the engine's script, or use --guard api."
    ),
    "EngineStartFailed": "The engine could not be started ({error}). Check the service logs for errors.",
    "EngineExited": (
        "The engine ended by itself with exit status {status}, for a reason that is not known here. It said: {line}. "
        "Check the service logs for errors."
    ),
    "EngineKilled": (
        "The engine was ended by signal {signal}. SIGKILL often means that the machine ran out of memory; choose a "
        "smaller model then."
    ),
    "EngineStopped": "The engine was stopped.",
    "EngineVanished": (
        "A process of the engine ended without saying why, as happens when the machine runs out of memory. Choose a "
        "smaller model, or give the machine more memory."
    ),
    "EngineDead": "The engine died while its server still answered. Check the service logs for errors.",
    "EngineHung": (
        "The engine hung while it was starting (phase: {phase}): for {minutes} minutes it printed, computed and read "
        "nothing, and was ended. Check the service logs for errors; the same choice made again tries anew."
    ),
    "EngineUnresponsive": (
        "The engine answers no requests. It is restarted in {restart_seconds} s unless it answers again."
    ),
    "LeftoversRemain": (
        "Processes of an earlier engine do not end: {processes}. The next one starts when they are gone."
    ),
    "EffectFailed": "An internal step failed ({effect}: {error}). It is tried again.",
    "FileMissing": (
        "The engine missed a file of the model ({line}). Delete the cached model, so that it is downloaded anew, or "
        "check the hub."
    ),
    # --- why the engine ended, where it says so itself ---
    "MachineMemoryFull": (
        "The memory of this machine or of its container ran out, and the kernel ended the engine. Choose a smaller "
        "model, or give it more memory."
    ),
    "MachineMemoryShort": (
        "The engine asked for {tried} of memory at once, and the machine does not have so much free. Choose a smaller "
        "model, or give the machine more memory."
    ),
    "MachineMemoryShortUnmeasured": (
        "The memory of this machine does not suffice for the engine. Choose a smaller model, or give the machine more "
        "memory."
    ),
    "MachineMemoryBusy": (
        "{free} of {total} GiB of memory are free, and the engine is to use {needed} GiB. End what else uses the "
        "memory, or lower --gpu-memory-utilization: without a GPU it is a share of the machine's memory."
    ),
    "GpuBusy": (
        "{free} of {total} GiB of GPU memory are free, and the engine is to use {needed} GiB. End what else uses the "
        "GPU, or lower --gpu-memory-utilization."
    ),
    "GpuBusyUnmeasured": (
        "Less GPU memory is free than the engine is to use. End what else uses the GPU, or lower "
        "--gpu-memory-utilization."
    ),
    "GpuMemoryTaken": "The GPU's memory ran out; process {pid} holds {held} of it. End that process.",
    "GpuMemoryFull": (
        "The GPU's memory ran out: {tried} more were needed, and {free} of {total} were free. Choose a smaller or more "
        "quantized model."
    ),
    "GpuMemoryFullUnmeasured": "The GPU's memory ran out. Choose a smaller or more quantized model.",
    "NoCacheMemory": (
        "The model fills all the memory that vLLM may use, and none is left for the KV cache. Choose a smaller or more "
        "quantized model, or raise --gpu-memory-utilization."
    ),
    "CacheTooLarge": (
        "The KV cache is to take {wanted} GiB of memory, and {free} GiB are free. Lower VLLM_CPU_KVCACHE_SPACE."
    ),
    "ContextNeedsMemoryMost": (
        "A context of {wanted} tokens needs {needed} GiB for the KV cache, and {free} GiB are left for it. Set "
        "--max-model-len to {most} or less."
    ),
    "ContextNeedsMemory": (
        "A context of {wanted} tokens needs {needed} GiB for the KV cache, and {free} GiB are left for it. Lower "
        "--max-model-len, or choose a smaller model."
    ),
    "ContextTooLong": (
        "A context of {wanted} tokens is asked for, and the model was made for {most}. Set --max-model-len to {most} "
        "or less, or remove it."
    ),
    "ContextNeedsBatch": (
        "A context of {wanted} tokens is asked for, and a step computes {most} at most, without chunked prefill. Set "
        "--max-model-len to {most} or less, or raise --max-num-batched-tokens."
    ),
    "BatchTooSmall": (
        "{wanted} sequences may run at once, and a step computes {most} tokens at most. Set --max-num-seqs to {most} "
        "or less, or raise --max-num-batched-tokens."
    ),
    "TooManySequences": (
        "{wanted} sequences may run at once, and the cache has room for {most}. Set --max-num-seqs to {most} or less."
    ),
    "ArgumentsRefused": (
        'vLLM refuses the arguments for this model: {detail}. Correct them with the "Set Model" action.'
    ),
    "ToolParserUnknown": "vLLM has no tool call parser {name}. Correct --tool-call-parser.",
    "ReasoningParserUnknown": "vLLM has no reasoning parser {name}. Correct --reasoning-parser.",
    "SpeculativeMethodUnsupported": (
        "vLLM does not support the speculative method {method} with this model. Correct --speculative-config, or "
        "remove it."
    ),
    "SharedMemoryFull": "The shared memory of the container (/dev/shm) is full. Give the container more of it.",
    "VolumeFullFor": (
        "A file of {expected} did not fit on the volume of the models, where {room} were free. "
        '"Delete Model Cache" frees room.'
    ),
    "PathDenied": "The engine may not use {path} ({error}). Check its permissions.",
    "HubSilent": "The hub {host} does not answer in time. Check the network.",
    "WeightsDamaged": (
        "A weights file of the model is damaged ({detail}). Delete the cached model, so that it is downloaded anew."
    ),
    "ConfigDamaged": (
        "The model's file {path} is not valid JSON. Correct it, or delete the cached model, so that it is downloaded "
        "anew."
    ),
    "ModelUnsupported": (
        "This vLLM does not support models of the architecture {architecture}. Choose another model, or update the "
        "service."
    ),
    "ModelTypeUnknown": (
        "This vLLM does not know models of the type {type}. Choose another model, or update the service."
    ),
    "ConfigValueWrong": (
        "The model's configuration has an unusable value for {name}. Correct --hf-overrides if it is set there; "
        "otherwise choose another model."
    ),
    "QuantizationUnknown": (
        "This vLLM does not know the quantization method {method}. Choose another build of the model, or correct "
        "--quantization."
    ),
    "RemoteCodeNeeded": (
        "{repo} brings program code of its own. If you trust its authors, add --trust-remote-code; otherwise choose "
        "another model."
    ),
    "GpuTooOldForFormat": (
        "The quantization method {method} needs a GPU of compute capability {least}, and this one has {has}. Choose a "
        "build of the model in another format."
    ),
    "GpuUnsupported": "This build of vLLM was not made for this GPU. Use an image that supports it.",
    "DriverTooOld": "The NVIDIA driver is too old for this vLLM. Update the driver.",
    "NoGpu": (
        "vLLM sees no GPU. Check that the GPU is given to the service, and that the service's image is made for it."
    ),
    "TooFewGpus": "The arguments ask for {wanted} GPUs, and there are {has}. Lower --tensor-parallel-size.",
    "PortInUse": "Port {port} was taken by another program while the engine started. End that program.",
    # --- what would mend it ---
    "FixOffered": 'The "Set Model" action offers the same model with {change}, which fits.',
    "FixChoice": "The same model with {change}, which fits",
    # --- why a model cannot be had, and what to do ---
    "DownloadFailed": "The model could not be downloaded ({error}). Check the network.",
    "FetcherEnded": "The download process ended with {status}. It is begun again where it stopped.",
    "DownloadStalled": "No byte of {repo} arrived for {seconds} s. Check the network.",
    "DownloadCut": "The connection was cut while {repo} was downloading. Check the network.",
    "HubUnreachable": "The hub {host} cannot be reached. Check the network, and HF_ENDPOINT if you set it.",
    "HubNameUnknown": "The name {host} cannot be resolved. Check the network and its DNS.",
    "HubNotTrusted": "The certificate of {host} is not trusted. Check the clock of this machine and its proxy.",
    "HubRateLimited": "The hub {host} answers that there were too many requests. A HuggingFace token raises the limit.",
    "HubError": "The hub {host} answers with an error (HTTP {status}). It usually passes by itself.",
    "NotAHub": "What answers at {host} is no model hub. Check HF_ENDPOINT.",
    "HubSettingsWrong": (
        "No hub can be asked with these settings ({error}). Check HF_ENDPOINT, HTTP_PROXY and its like, and "
        "SSL_CERT_FILE."
    ),
    "HubForbids": "The hub {host} refuses access to {repo}. Check the rights of your HuggingFace token.",
    "TokenRefused": "The hub {host} does not accept the HuggingFace token. Set a valid HF_TOKEN, or none.",
    "GatedRepo": (
        "{repo} is gated. Accept its licence on its page with your account, and set HF_TOKEN to a token of yours."
    ),
    "GatedRepoDenied": (
        "{repo} is gated, and the account of your HuggingFace token has no access to it. Ask for access on its page."
    ),
    "ModelNotFound": "{repo} is not on the hub, or your HuggingFace token may not see it. Check the spelling.",
    "ModelNotFoundOrPrivate": "{repo} is not on the hub, or is private. Check the spelling; if private, set HF_TOKEN.",
    "ModelPathMissing": "{path} is neither a directory here nor the name of a model on the hub. Check the spelling.",
    "RevisionNotFound": "{repo} has no revision {revision}. Check --revision.",
    "RevisionNotFoundUnnamed": "{repo} has no revision of the name that is asked for. Check --revision.",
    "RepoDisabled": "The hub has disabled access to {repo}. Choose another model.",
    "NoWeights": "{repo} holds no weights that vLLM can read. Choose another model, or check --load-format.",
    "UnsafeRepository": "The hub lists something for {repo} that must not be stored ({what}). Choose another model.",
    "NotInCache": (
        "{repo} is not complete in the cache, and HF_HUB_OFFLINE forbids downloading it. Remove that variable."
    ),
    "DiskFull": (
        "{repo} needs {needed} GB more. {free} GB are free on its volume, of which {spare} GB are kept free. Models in "
        'the cache that are not in use take up {other} GB: "Delete Model Cache" frees them.'
    ),
    "VolumeTooSmall": (
        "{repo} needs {needed} GB more. {free} GB are free on its volume, of which {spare} GB are kept free. The cache "
        "holds no model that is not in use: free some room, or choose a smaller model."
    ),
    "VolumeFull": 'The volume of the models is full. "Delete Model Cache" frees room.',
    "CacheNotWritable": "The model cache cannot be written ({error}: {path}). Check its volume and permissions.",
    "CacheLocked": "Another program is downloading {repo} into the same cache. It is looked at again.",
    "ChecksumWrong": "{file} of {repo} arrived with a wrong checksum. It is downloaded again.",
    "TriedOften": "{number} attempts in a row brought nothing.",
    # --- the model cache: why it is not read, and why a model is not deleted ---
    "CacheUnreadable": "The model cache cannot be read ({error}: {path}). Check its volume and permissions.",
    "ModelUnreadable": "It cannot be read in full ({error}: {path}). Check its permissions.",
    "SelectionUnknown": (
        "Which model is selected cannot be read from {file}, so none is deleted. Correct the file, or force the "
        "deletion."
    ),
    "ModelNotCached": "There is no model {model} in the cache. Choose one that is listed, as it is written there.",
    "ModelNotCachedMeant": "There is no model {model} in the cache; perhaps {meant} was meant.",
    "ModelInUse": (
        "{model} was not deleted: it is selected or being served. Choose another model first, or force the deletion."
    ),
    "ModelBusy": (
        "{model} was not deleted: a program is downloading it. Wait for it or end it, or force the deletion."
    ),
    "ModelIsNoFolder": (
        "{model} was not deleted: {path} is a symbolic link, behind which nothing is deleted. Remove the link and what "
        "it leads to by hand."
    ),
    "ModelLinked": "It is a symbolic link, behind which nothing is deleted.",
    "ModelChanged": "{model} was not deleted: another folder has taken its place just now. Look again.",
    "DeletionDenied": "{model} was not deleted: {path} cannot be changed ({error}). Check its volume and permissions.",
    "DeletionIncomplete": (
        "{model} is not cached any more, but {path} could not be removed ({error}). Check its permissions; the next "
        "deletion removes the rest."
    ),
    # --- what else should be known of a start ---
    "FetchedByEngine": "vLLM downloads what it needs of {model} by itself ({what}), so its progress is not known.",
    # --- what else should be known: the files. No parameter holds what stands in a file, which may be a key ---
    "FileNotJson": (
        "Ignoring {file}: not valid JSON at line {line}, column {column} ({detail}). "
        "Correct it; the change is taken without a restart."
    ),
    "FileNotUtf8": "Ignoring {file}: byte {offset} is not UTF-8 text. Save it as UTF-8.",
    "FileHasNul": "Ignoring {file}: byte {offset} is a NUL, as is left by a write that a power failure cut off. "
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
    # --- why a device has its tier ---
    "DeviceCapability": "Compute capability {target} makes it {tier}.",
    "DeviceTooOld": "Compute capability {target} is below 8.0, for which no preset is made.",
    "DeviceTargetUnknown": "Its compute capability cannot be read ({error}).",
    "DeviceTarget": "vLLM's ROCm build supports {target}.",
    "DeviceTargetNoFp8": "vLLM's ROCm build supports {target}; it does not calculate in FP8.",
    "DeviceTargetUnsupported": "vLLM's ROCm build does not support {target}.",
    "DeviceInProcessor": "{target} is a graphics unit inside a processor, for which no preset is made.",
    "DeviceHidden": "{variable} hides it.",
    "DeviceUnified": "It shares the system's memory.",
    "DeviceMemoryUnknown": "Its memory cannot be read ({error}).",
    "DeviceMigEmpty": "MIG mode is on and there is no instance. Create one, or turn MIG mode off.",
    "DeviceNoAccess": "{path} is missing. Give the container this device file.",
    "DeviceLost": "It does not answer ({error}). Restart the machine.",
    # --- which devices a model is served with ---
    "ChosenOnly": "It is the only usable device.",
    "ChosenEqual": "All {count} usable devices are equal.",
    "ChosenBest": (
        "The {of} usable devices differ, and a model needs equal ones. Used for the most memory: {count} × {name}."
    ),
    "ChosenInstance": "CUDA uses one of {of} usable devices here, as MIG is on: the one with the most memory.",
    "ChosenVendor": "NVIDIA and AMD devices are usable; vLLM's CUDA build is assumed. --build rocm says otherwise.",
    "ChosenCpuBuild": "The CPU build of vLLM uses no accelerator.",
    "NoAccelerator": "There is no accelerator.",
    "NoneUsable": "No device can be used; the reason stands with each.",
    "NoneForBuild": "No device can be used with the {build} build of vLLM.",
    "AllHidden": "{variable} hides every usable device. Remove it or name a device in it.",
    "CudaOrderUnknown": (
        "The devices differ and CUDA_VISIBLE_DEVICES holds numbers: they were read in PCI order, but CUDA counts the "
        "fastest device as 0. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name devices by UUID."
    ),
    "HipCudaDiffer": (
        "HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES differ, with which vLLM does not start. Remove one of them."
    ),
    # --- what did not answer ---
    "NvmlBindingMissing": "There is an NVIDIA device, but the package nvidia-ml-py is not installed. Install it.",
    "NvmlMissing": (
        "There is an NVIDIA device, but no driver library. Install the driver, or start the container with the NVIDIA "
        "runtime."
    ),
    "NvmlMismatch": (
        "The NVIDIA driver and its library are of different versions, as after an update. Restart the machine."
    ),
    "NvmlDriverNotLoaded": "There is an NVIDIA device, but its driver is not loaded. Load it, or restart the machine.",
    "NvmlNoPermission": "The NVIDIA driver refuses to answer this user. Check the permissions of /dev/nvidiactl.",
    "NvmlHangs": "The NVIDIA driver does not answer. Restart the machine.",
    "NvmlCrashed": "The NVIDIA driver's library crashed. Restart the machine, or reinstall the driver.",
    "NvmlFailed": "The NVIDIA driver does not answer ({error}). Restart the machine.",
    "KernelHangs": "The kernel does not answer for a device. Restart the machine.",
    "KernelFailed": "The kernel's device files cannot be read ({error}).",
    "DevicesBroken": "Of {of} devices, {count} answered in part or not at all; the reason stands with each.",
    "MemoryUnknown": "The size of the system's memory cannot be read ({error}).",
    "AmdNoCompute": (
        "There is an AMD device without a compute interface. For ROCm, load the amdgpu driver, and give the container "
        "/dev/kfd and /dev/dri."
    ),
    # --- presets: why one is not offered, and what is wrong with a file of them ---
    "PresetNeedsMemory": "Needs {needs} GiB, has {has}.",
    "PresetNeedsMemoryOfSeveral": "Needs {needs} GiB, has {has} on {used} of {devices} GPUs.",
    "PresetMemoryUnknown": "Needs {needs} GiB, and it is not known how much there is.",
    "PresetNeedsFp8": "Needs a GPU that calculates in FP8 (gfx942, gfx950, gfx1200 or gfx1201).",
    "PresetHardwareUnknown": "It could not be found out which GPUs there are.",
    "PresetNeedsGpu": "Needs a GPU that is known here, and there is none.",
    "PresetOtherHardware": "No build of it is known for {tier}.",
    "PresetNeedsFile": "Needs the file {path}, which is not there; vLLM's images bring it.",
    "PresetSpread": "It is spread over {devices} GPUs, which was not tried on hardware.",
    "PresetInvalid": "Ignoring {file}: {field} must be {expected}. Correct it; the built-in presets stay.",
    # --- why an action was refused ---
    "PresetNotOffered": 'The preset {name} cannot be chosen here; "vllm-fsm presets" lists those that can.',
    "PresetUnknown": (
        'There is no preset {name}; "vllm-fsm presets --all" lists them. Custom arguments take any other model.'
    ),
    "PresetUnknownMeant": "There is no preset {name}; perhaps {meant} was meant.",
    "FixGone": (
        "There is no correction to take: the engine has not failed with these arguments, or its failure names no other "
        'ones. "vllm-fsm status" says how things are.'
    ),
    "VariableNotForPreset": (
        "Environment variable {number} cannot be given with a preset, but only {kept}. Choose custom arguments for "
        "others."
    ),
    "ArgumentsMissing": "There are no arguments; write the model's name, and behind it what vLLM is to be told.",
    "ModelHasBlanks": "The model's name {model} has a blank in it, which no name on the hub has; remove it.",
    "VariableWithoutValue": "Environment variable {number} has no value; write NAME=VALUE.",
    "TokenFileEmpty": "There is no token in {path}; --unset HF_TOKEN forgets the stored one.",
    "TokenFileUnusable": "The token cannot be read from {path}; name a file that holds nothing else.",
    "SecretMasked": (
        "The *** at character {character} stands for a secret that was not shown; write it out, or leave the arguments "
        "as they were."
    ),
    "SecretInArguments": (
        "A secret stands in the arguments, where every program on this machine can read it; give it as a variable "
        "instead, for the hub as HF_TOKEN."
    ),
    "ValueNotStored": "Environment variable {number} has *** for its value, and none is stored; write it out.",
    "TokenUnusable": "The HuggingFace token has a blank or another character that no token has; copy it again.",
    "ActionUnknown": "There is no action {name}; there are {known}.",
    "FieldUnknown": "There is no field {name}; there are {known}.",
    "NoFields": "There is no field {name}; this action has none.",
    "InputTooLarge": "The input is larger than {limit} bytes.",
    "InputNotUtf8": "Byte {offset} of the input is not UTF-8 text.",
    "InputHasNul": "Byte {offset} of the input is a NUL.",
    "InputEmpty": "The input is empty; write a JSON object.",
    "InputNotJson": "The input is not valid JSON at line {line}, column {column} ({detail}).",
    "InputDuplicateKey": "{key} stands twice in one object of the input; remove one of them.",
    "InputTooDeep": "The input is nested more than {limit} levels deep.",
    "InputNumberTooLarge": "The input holds a number that is too large.",
    "InputNotANumber": "The input holds NaN or Infinity, which JSON does not have.",
    "InputWrongShape": "{field} must be {expected}, not {found}.",
    "InputFieldMissing": "{field} is missing.",
    "KeyRotatable": 'The "Rotate API Key" action keeps this file aside and makes a new key.',
    "KeyNotMade": "There is no API key yet, and the running controller does not make one; see its health.",
    # --- what is said of arguments before a start. Values are quoted already, or only their length is told ---
    "ArgumentsUnusable": "The arguments cannot be used: {detail}.",
    "ArgumentReserved": "{argument} is set by the service itself, or would change how it is reached; remove it.",
    "VariableReserved": "The variable {name} is set by the service itself; remove it.",
    "VariableNameUnusable": (
        "The name of environment variable {number} cannot be used; use letters, digits and underscores, with no digit "
        "first."
    ),
    "VariableValueUnusable": "An environment variable cannot be passed on: {detail}.",
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
    "ArgumentExtra": "{argument} belongs to no flag; only the model's name stands by itself, and has no blanks.",
    "ArgumentExtraMeant": "{argument} belongs to no flag; perhaps {meant} was meant.",
    "ValueNoInteger": "{flag} takes a whole number, not {value}.",
    "ValueNoNumber": "{flag} takes a number, not {value}.",
    "ValueNoSize": "{flag} takes a whole number like 4096, 4k (4000) or 4K (4096), not {value}.",
    "ValueNoSizeOrAuto": "{flag} takes a whole number like 4096, 4k (4000) or 4K (4096), or auto, not {value}.",
    "ValueNegative": "{flag} takes 0 or more, not {value}.",
    "ValueNoChoice": "{flag} takes one of {choices}, not {value}.",
    "ValueNoChoiceMeant": "{flag} does not take {value}; perhaps {meant} was meant.",
    "ValueNoJson": "The value of {flag} is not valid JSON at character {character} ({detail}).",
    "ValueNoObject": "The value of {flag} must be a JSON object.",
    "ValueJsonTooLarge": "The value of {flag} holds JSON that is too deep or has a number that is too long.",
    "ValueNotChecked": "The value of {flag} is checked only when the engine starts.",
    "KeyUnknown": "The JSON object of {flag} has no key {value}; it has {choices}.",
    "KeyUnknownMeant": "The JSON object of {flag} has no key {value}; perhaps {meant} was meant.",
    "KeyMissing": "The JSON object of {flag} needs the key {key}.",
    "NameUnknown": "vLLM knows no {value} for {flag}; it knows {choices}.",
    "NameUnknownMeant": "vLLM knows no {value} for {flag}; perhaps {meant} was meant.",
    "NameUnusual": "vLLM by itself knows no {value} for {flag}; it knows {choices}. Plugins may add names.",
    "NameUnusualMeant": "vLLM by itself knows no {value} for {flag}; perhaps {meant} was meant. Plugins may add names.",
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
    "ValueTooLong": "The value is {length} characters long; at most {limit} are taken.",
    "QuoteNotClosed": "The quote {quote} at character {character} is not closed; close it, or put a \\ before it.",
    "NothingEscaped": "The \\ at character {character} has nothing behind it; remove it, or write \\\\.",
    "CharacterRefused": "The character {code} at character {character} cannot be seen and cannot be meant; remove it.",
}


def parameters(id_: str) -> tuple[str, ...]:
    """Return the names of the parameters of a sentence, each once."""
    return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(ENGLISH[id_]) if name))


def text(message: Message) -> str:
    """Return the English sentence.

    Raises:
        KeyError: no such message, or a parameter of its sentence is missing.
    """
    return ENGLISH[message.id].format(**dict(message.params))


def document(message: Message) -> dict[str, object]:
    """Return a message as JSON has it: for people, and by id and parameters for other languages."""
    return {"id": message.id, "params": dict(message.params), "message": text(message)}


def sentences(messages: Iterable[Message]) -> str:
    """Return the English sentences in a row; one that is followed by another gets its full stop."""
    row = ""
    for message in messages:
        row += ("" if not row else " " if row.endswith((".", ":")) else ". ") + text(message)
    return row
