"""What a server drops in silence is refused by name: in a preset of an evaluation, and in a judge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import AutoProcessor

from skippy.core.sampling import PRESETS, Sampling
from skippy.errors import BackendError
from skippy.evaluation.backends import open_backend
from skippy.evaluation.generator import Generator
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.dialects import EXTENDED, OWN, PLAIN, TRANSFORMERS
from skippy.models.judge import Judge
from skippy.models.loading import load_tokenizer
from tests.loopback import loopback


@pytest.fixture
def transformers_serve() -> Iterator[str]:
    """A server that looks like `transformers serve`: its list of models fails, its pages tell what it is."""
    pages = {"/openapi.json": {"paths": {"/load_model": {}}}}
    with loopback(
        lambda request, asked: (200 if request.path in pages else 500, pages.get(request.path, {}))
    ) as url:
        yield url


def test_a_preset_that_the_server_would_not_follow_names_what_is_dropped(transformers_serve: str) -> None:
    generator = Generator("openai", base_url=transformers_serve, served_model="x")
    with pytest.raises(BackendError, match="cannot honour") as refusal:
        open_backend(generator, LAB_CHECKPOINT, PRESETS["qwen3vl-instruct"])
    assert refusal.value.found == "transformers serve, which ignores presence_penalty"
    assert open_backend(generator, LAB_CHECKPOINT, PRESETS["lab"]), "what it does follow is taken"


def test_a_judge_that_would_give_no_probabilities_is_refused(transformers_serve: str) -> None:
    with pytest.raises(BackendError, match="judge cannot be used") as refusal:
        Judge(transformers_serve, "x").check()
    assert refusal.value.found == "transformers serve, which gives no log-probabilities (logprobs)"


def test_what_each_kind_of_server_drops() -> None:
    everything = Sampling(top_k=5, presence_penalty=1.0)
    assert PLAIN.lacking(everything) == ("top_k",)
    assert TRANSFORMERS.lacking(everything) == ("presence_penalty",)
    assert EXTENDED.lacking(everything) == OWN.lacking(everything) == ()
    assert TRANSFORMERS.lacking(Sampling()) == ()


def test_a_whole_seed_reaches_our_own_engine_and_what_others_take_the_others() -> None:
    assert OWN.seed(2**47 + 3) == 2**47 + 3
    assert EXTENDED.seed(2**47 + 3) == 3


def test_transformers_serve_would_not_load_the_lab() -> None:
    """Why there is an engine of our own: its loader asks Qwen3-VL for an image processor, text alone or not."""
    with pytest.raises((OSError, ImportError), match=r"preprocessor_config|[Tt]orchvision"):
        AutoProcessor.from_pretrained(LAB_CHECKPOINT)
    assert load_tokenizer(LAB_CHECKPOINT)
