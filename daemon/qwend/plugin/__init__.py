"""The public door: everything that a plugin author needs, and nothing else.

    from qwend.plugin import Engine, Launch, InputRef, hookimpl

`plugins/README.md` is the reference; `qwend.plugin.testing` is the kit that checks a plugin the way
`qwend plugins check` does. What is not exported here may change without notice.
"""

from qwend.errors import OutOfResource, QwendError, UsageError
from qwend.model.artifact import ARTIFACT_TYPES, Artifact, Facts, Pin, PinnedFile
from qwend.model.event import Event
from qwend.model.headers import HeaderError
from qwend.model.host import Gpu, Host
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage, load_image
from qwend.model.launch import (
    PREVIOUS,
    BindRef,
    DriverRef,
    HttpProbe,
    ImageRef,
    InputRef,
    Join,
    Launch,
    LaunchFile,
    LogHint,
    OutputRef,
    PortRef,
    Probe,
    ProgressPattern,
    Resources,
    ScratchRef,
    SecretRef,
    ThreadsRef,
    Word,
)
from qwend.model.memory import Estimate, cache_bytes, estimate, human, weight_bytes
from qwend.model.source import Question, Resolution
from qwend.model.weights import look as look_at
from qwend.plugin.hooks import PROJECT, hookimpl, hookspec
from qwend.plugin.protocols import (
    Engine,
    Finding,
    Given,
    Params,
    Product,
    Source,
    StepView,
    driver,
    flag,
    reference,
)

__all__ = [
    "ARTIFACT_TYPES",
    "PREVIOUS",
    "PROJECT",
    "Artifact",
    "BindRef",
    "DriverRef",
    "Engine",
    "Estimate",
    "Event",
    "Facts",
    "Finding",
    "Given",
    "Gpu",
    "HeaderError",
    "Host",
    "HostProgram",
    "HttpProbe",
    "Image",
    "ImageRef",
    "ImageSpec",
    "InputRef",
    "Join",
    "Launch",
    "LaunchFile",
    "LogHint",
    "OutOfResource",
    "OutputRef",
    "Params",
    "Pin",
    "PinnedFile",
    "PortRef",
    "Probe",
    "Product",
    "ProgressPattern",
    "Question",
    "QwendError",
    "Resolution",
    "Resources",
    "ScratchRef",
    "SecretRef",
    "Source",
    "StepView",
    "ThreadsRef",
    "UpstreamImage",
    "UsageError",
    "Word",
    "cache_bytes",
    "driver",
    "estimate",
    "flag",
    "hookimpl",
    "hookspec",
    "human",
    "load_image",
    "look_at",
    "reference",
    "weight_bytes",
]
