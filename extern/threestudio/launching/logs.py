"""What a run prints: messages in place of the libraries' chatter."""

import logging
import sys
import warnings
from typing import Any


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stderr`` is at the moment, so that lines appear above a live progress bar."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class Quiet(logging.Filter):
    """Drops remarks that say nothing about this run, or what its last line says anyway."""

    NOISE = (
        *("GPU available", "TPU available", "HPU available", "`Trainer.fit` stopped", "`weights_only` was not set"),
        *("💡", "Restoring states", "Restored all states", "Loaded model weights", "LOCAL_RANK: "),
        *("You are using a CUDA device", "Validation results will be saved", "Test results saved", "Export assets"),
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(self.NOISE)


def set_up_logging(verbose: bool) -> None:
    logger = logging.getLogger("pytorch_lightning")
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    if not verbose:
        handler.addFilter(Quiet())
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|lightning_fabric\..*|torch\..*")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def hide_loading_bars() -> None:
    """No progress bars for reading weights into networks, which takes a moment; downloads keep theirs."""
    libraries = [sys.modules.get(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    hub = sys.modules.get("huggingface_hub.utils")
    had_bars = hub is not None and not hub.are_progress_bars_disabled()
    for library in libraries:
        if library is not None:
            library.disable_progress_bar()
    if had_bars:
        hub.enable_progress_bars()  # transformers switches them off with its own
