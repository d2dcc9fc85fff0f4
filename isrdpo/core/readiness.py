"""Settings that cannot work on this machine, named before hours of work: a device, a tracker or a library
that is not there, and sampling that makes no pair.

These are no errors of the parameters: a run that was made on another machine opens here, and its pages too.
"""

import difflib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from isrdpo.core.judges import JUDGES
from isrdpo.core.secrets import printable

if TYPE_CHECKING:
    from isrdpo.core.params import Params

TRACKERS = {  # by transformers' name, with the packages one of which it needs
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def obstacles(params: "Params") -> list[str]:
    """A line for each setting that would stop the run, or leave it nothing to train on."""
    problems = [missing_device(params.model.device), _missing_library(params), _same_responses(params)]
    if params.iterations:
        problems.append(missing_tracker(params.train.report_to))
    return [problem for problem in problems if problem]


def missing_device(device: str) -> str:
    """Say that `model.device` is not on this machine; empty where it is.

    Only where a GPU is asked for by name, torch is loaded to look for it.
    """
    if device in ("auto", "cpu"):
        return ""
    import torch

    if device == "mps":
        present = ["mps"] if torch.backends.mps.is_available() else []
    else:
        present = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if device in present or (device == "cuda" and present):
        return ""
    return (
        f"model.device: {device} is not here; this machine has {', '.join(['cpu', *present])} (auto finds it)"
    )


def missing_tracker(name: str) -> str:
    """Say that `train.report_to` is no tracker, or is not installed; empty where it is."""
    if name in ("none", "all"):
        return ""
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"train.report_to: {printable(name)} is not one of none, all, {', '.join(TRACKERS)}{hint}"
    if any(find_spec(package) for package in TRACKERS[name]):
        return ""
    return f"train.report_to: {name} is not installed; install {TRACKERS[name][0]}, or give none"


def _missing_library(params: "Params") -> str:
    if params.model.quantize == "none" or find_spec("bitsandbytes"):
        return ""
    return (
        f"model.quantize: {params.model.quantize} needs bitsandbytes, which is not installed; "
        f"install it, or give none"
    )


def _same_responses(params: "Params") -> str:
    needs_pairs = JUDGES[params.judge.method].needs_responses and params.iterations
    if not needs_pairs or params.respond.temperature:
        return ""
    return (
        "respond.temperature: at 0 both responses are the same, and there is no pair to judge; "
        "give a number above 0"
    )
