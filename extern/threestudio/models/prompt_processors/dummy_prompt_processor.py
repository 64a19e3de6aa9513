"""``dummy-prompt-processor``: for systems whose guidance takes no prompt."""

from dataclasses import dataclass

from threestudio import register
from threestudio.models.prompt_processors.base import PromptProcessor

__all__ = ["DummyPromptProcessor"]


@register("dummy-prompt-processor")
class DummyPromptProcessor(PromptProcessor):
    """Has no embeddings; calling it gives None."""

    @dataclass
    class Config(PromptProcessor.Config):
        pretrained_model_name_or_path: str = ""
        prompt: str = ""

    cfg: Config

    def configure(self) -> None:
        self.prompt, self.negative_prompt = self.cfg.prompt, self.cfg.negative_prompt

    def __call__(self) -> None:
        return None
