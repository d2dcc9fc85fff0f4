"""A model before it is loaded: the size of its weights, what training holds of it, and how wide it is."""

from dataclasses import dataclass

from isrdpo.core import records
from isrdpo.core.folders import checkpoint_path, resolve
from isrdpo.core.hub_ids import is_hub_id
from isrdpo.core.params import Params
from isrdpo.core.progress import format_size

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # per parameter, by model.dtype
QUANTIZED_BYTES = {"8bit": 1, "4bit": 0.5}  # per parameter, by model.quantize
FULL_TRAINING_BYTES = 20  # per parameter, in float32: weights, gradients, two moments of AdamW, reference
SEVEN_B = 7_000_000_000  # parameters assumed of a model on the hub, whose files are not at hand


@dataclass(frozen=True)
class Weights:
    """A checkpoint before it is loaded: bytes of its weights, where they come from, and what is wrong."""

    size: float
    origin: str
    problem: str = ""


def find_weights(params: Params) -> Weights:
    """Look for the weights of `model.path`: in a folder, else assumed of a model on the hub."""
    path = params.model.path
    folder = resolve(checkpoint_path(path))
    if folder.is_dir():
        files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
        size = sum(file.stat().st_size for file in files)
        problem = f"model.path: {path} holds no weights (*.safetensors or pytorch_model*.bin)"
        return Weights(size, path, "" if size else problem)
    if path == "toybox":
        problem = f"{folder}: the base model that ships with the package is missing; install the package anew"
        return Weights(0, path, problem)
    if is_hub_id(path):
        return Weights(SEVEN_B * BYTES[params.model.dtype], f"{path} from the hub, taken as 7 B")
    problem = (
        f"model.path: {path} is neither toybox, a folder, nor a hub id such as ShareGPTVideo/LLaVA-Hound-SFT"
    )
    return Weights(0, path, problem)


def check_adapter(params: Params) -> list[str]:
    """Compare the adapter's rank with the width of the language model, where the folder says it."""
    config = resolve(checkpoint_path(params.model.path)) / "config.json"
    if params.train.method != "lora" or not config.is_file():
        return []
    try:
        values = records.read_json(config)
        width = values.get("text_config", values).get("hidden_size")
    except (ValueError, AttributeError):  # loading it says what is wrong with it
        return []
    if type(width) is not int or params.train.lora_r <= width:
        return []
    return [
        f"train.lora_r: {params.train.lora_r} is more than the model's width {width}; give a smaller rank"
    ]


def training_memory(params: Params, weights: float) -> str:
    """Say what training holds on its one device, activations aside. `weights` is in bytes.

    Full training holds FULL_TRAINING_BYTES per parameter; LoRA holds the base, and as much for its adapter,
    which is small.
    """
    dtype = BYTES[params.model.dtype]
    parameters = weights / dtype
    if params.train.method == "full":
        size = parameters * FULL_TRAINING_BYTES
        detail = "weights, gradients, two moments, reference in float32); activations on top"
    else:
        size = parameters * QUANTIZED_BYTES.get(params.model.quantize, dtype)
        detail = "the frozen base); its adapter and activations on top"
    return f"training memory: about {format_size(size)} on one device ({detail}"
