"""The kernel that a notebook of ours runs in: this interpreter's own, in an environment of its own."""

import os
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

ENVIRONMENT = {
    "MPLBACKEND": "Agg",  # the inline backend would break a process that the kernel starts
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning of the debugger about frozen modules
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",  # a page would show the bars as they stood at the end
}


class OwnKernelManager(AsyncKernelManager):
    """Start a kernel of the running interpreter, with ENVIRONMENT beside what this process has.

    This process keeps its own.
    """

    @default("kernel_spec_manager")
    def _only_the_native_kernel(self) -> KernelSpecManager:
        """Look in no folder, since a kernel named python3 in the user's home may belong to another
        interpreter.
        """
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **options: Any) -> None:
        """Start the kernel; `options` are those of AsyncKernelManager."""
        await super().start_kernel(env={**os.environ, **ENVIRONMENT}, **options)
