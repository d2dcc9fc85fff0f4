"""Errors of the machine are told from errors of one item, by real errors where this machine can make them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isrdpo.core.errors import is_expected
from isrdpo.models import resources


def raised_by(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        action()
    return caught.value


HOST = raised_by(lambda: torch.empty(10**15))
PYTHON = raised_by(lambda: bytearray(2**62))
DEVICE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 57.00 GiB.\nmore lines")
BROKEN = RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("error", "shortage", "everything"),
    [
        (HOST, "out of memory", False),
        (PYTHON, "out of memory", False),
        (DEVICE, "the device is out of memory", True),
        (BROKEN, "the device failed", True),
        (OSError(28, "No space left on device"), "the disk is full", True),
        (ValueError("aspect ratio must be smaller than 200"), "", False),
        (ValueError("a question about being out of memory"), "", False),
    ],
)
def test_what_an_error_is_about(error: Exception, shortage: str, everything: bool) -> None:
    assert resources.shortage(error) == shortage
    assert resources.concerns_everything(error) == everything


def test_the_line_names_the_place_and_what_takes_less_memory() -> None:
    with (
        pytest.raises(resources.ResourceError) as caught,
        resources.one_line_errors("respond", "x.batch_size"),
    ):
        raise DEVICE
    assert str(caught.value) == (
        "respond: the device is out of memory (CUDA out of memory. Tried to allocate 57.00 GiB.); "
        "lower x.batch_size; the same command goes on from there"
    )
    assert is_expected(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_whoever_writes() -> None:
    with (
        pytest.raises(resources.ResourceError, match="train: the disk is full"),
        resources.one_line_errors("train", ""),
    ):
        torch.save(torch.zeros(2**20), "/dev/full")


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, resources.one_line_errors("train", ""):
        raise error
    assert caught.value is error
