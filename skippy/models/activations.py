"""What the base does under every persona and trait: the reference that character deltas are measured against.

Each persona answers the same prompts under its own system prompt; the answers are then read teacher-forced,
and every hook's activations are averaged over answer tokens. A target that reads the residual stream is
hooked at its module's input (after the norm), one that writes it at its output: by module name, never by
shape. Targets that share an input (q, k, v; gate, up) share a hook.

Source: MATH §5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.persona import Persona, Trait
from skippy.core.personality.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
    middle_layers,
)
from skippy.core.personality.subspaces import held_out_energy, persona_subspace, trait_vectors
from skippy.core.target import Target
from skippy.errors import SubspaceError
from skippy.models.answering import Answerer, GreedyAnswerer, pad_id
from skippy.models.hooks import Hook, Moments, read_moments, reading_of
from skippy.models.prompts import Messages, conversation

FIT, HELD_OUT = 0, 1
SKETCH_ROWS = 128
TRAIT_PROMPTS = 16
PROBES = 16


def collect_reference(
    model: nn.Module,
    tokenizer: Any,
    targets: Sequence[Target],
    personas: Sequence[Persona],
    prompts: Sequence[str],
    traits: Sequence[Trait],
    *,
    base_digest: str,
    character_digest: str,
    max_tokens: int = 64,
    batch_size: int = 64,
    seed: int = 0,
    answer: Answerer | None = None,
) -> CharacterReference:
    """Measure personality subspaces, null sketches, trait vectors and the traits' zero on the base.

    A quarter of the prompts is held out: the subspaces are fitted on the others and checked on these.

    Args:
        traits: contrasts that span the character space; each is asked on the first prompts.
        seed: of the prompt split and the sketch's mixing.
        answer: conversations → answers; None lets the model itself answer greedily.

    Raises:
        SubspaceError: too few prompts, personas that do not differ, or a persona without an answer.
    """
    if len(prompts) < 4 or len(personas) < 2 or not traits:
        raise SubspaceError(
            "Too little to measure a personality with.",
            expected="at least 4 prompts, 2 personas and 1 trait",
            found=f"{len(prompts)} prompts, {len(personas)} personas, {len(traits)} traits",
        )
    answer = answer or GreedyAnswerer(model, tokenizer, max_tokens, batch_size)
    measured, hooks = plan_hooks(targets)
    depth = 1 + max(target.layer for target in targets)
    streams = [_stream_hook(targets, layer) for layer in middle_layers(depth)]
    reader = _Reader(model, tokenizer, answer, batch_size)

    split = _split(len(prompts), seed)
    groups = [2 * p + split[i] for p in range(len(personas)) for i in range(len(prompts))]
    asked = [conversation(prompt, persona.system_prompt) for persona in personas for prompt in prompts]
    everywhere = reader.read(asked, groups, [*hooks, *streams], "personas", SKETCH_ROWS, seed)
    return CharacterReference(
        base_digest=base_digest,
        character_digest=character_digest,
        depth=depth,
        targets=measured,
        hooks={name: _hook_reference(moments) for name, moments in everywhere.items()},
        traits=_trait_reference(reader, traits, prompts, streams),
    )


def mean_hidden(model: nn.Module, tokenizer: Any, traits: TraitReference, *, batch_size: int = 64) -> Tensor:
    """Mean activations (T, L, d) on the reference's probes, teacher-forced: `hidden` of `measure_character`.

    The same tokens as on the base, whatever the adapted model would answer by now.
    """
    hooks = [Hook(name, name.removesuffix(".output"), "writes") for name in traits.hooks]
    moments = _read_probes(model, tokenizer, traits.probes, hooks, batch_size)
    return _by_layer(moments, hooks).float()


def plan_hooks(targets: Iterable[Target]) -> tuple[tuple[MeasuredTarget, ...], tuple[Hook, ...]]:
    """Every target with the name of its hook, and the hooks, each once."""
    measured: list[MeasuredTarget] = []
    hooks: dict[str, Hook] = {}
    for target in targets:
        shared = target.name.rsplit(".", 1)[0] + ".input"
        name = shared if target.side == "reads" else target.name + ".output"
        hooks.setdefault(name, Hook(name, target.name, target.side))
        measured.append(MeasuredTarget(target.name, target.layer, target.kind, target.side, name))
    return tuple(measured), tuple(hooks.values())


class _Reader:
    """Asks, then reads the answers back teacher-forced."""

    def __init__(self, model: nn.Module, tokenizer: Any, answer: Answerer, batch_size: int) -> None:
        self.model, self.tokenizer, self.answer, self.batch_size = model, tokenizer, answer, batch_size

    def read(
        self,
        conversations: Sequence[Messages],
        groups: Sequence[int],
        hooks: Sequence[Hook],
        label: str,
        sketch_rows: int = 0,
        seed: int = 0,
    ) -> dict[str, Moments]:
        answers = self.answer(conversations)
        readings = [
            reading_of(self.tokenizer, messages, text, group)
            for messages, text, group in zip(conversations, answers, groups, strict=True)
        ]
        return read_moments(
            self.model,
            readings,
            hooks,
            groups=max(groups) + 1,
            pad_id=pad_id(self.tokenizer),
            batch_size=self.batch_size,
            sketch_rows=sketch_rows,
            seed=seed,
            label=label,
        )


def _trait_reference(
    reader: _Reader, traits: Sequence[Trait], prompts: Sequence[str], streams: Sequence[Hook]
) -> TraitReference:
    asked, groups = [], []
    for position, trait in enumerate(traits):
        for pair in trait.pairs:
            for prompt in prompts[:TRAIT_PROMPTS]:
                asked += [conversation(prompt, pair.high), conversation(prompt, pair.low)]
                groups += [2 * position, 2 * position + 1]
    means = _by_layer(reader.read(asked, groups, streams, "traits"), streams)
    plain = [conversation(prompt) for prompt in prompts[:PROBES]]
    answered = zip(prompts[:PROBES], reader.answer(plain), strict=True)
    probes = tuple((prompt, text) for prompt, text in answered if text.strip())
    if not probes:
        raise SubspaceError("The base answers none of the prompts.", where="probes of the trait profile")
    moments = _read_probes(reader.model, reader.tokenizer, probes, streams, reader.batch_size)
    return TraitReference(
        names=tuple(trait.name for trait in traits),
        hooks=tuple(hook.name for hook in streams),
        vectors=trait_vectors(means[0::2].transpose(0, 1), means[1::2].transpose(0, 1)),
        probes=probes,
        hidden=_by_layer(moments, streams).float(),
        tokens=moments[streams[0].name].tokens.float(),
    )


def _read_probes(
    model: nn.Module,
    tokenizer: Any,
    probes: Sequence[tuple[str, str]],
    hooks: Sequence[Hook],
    batch_size: int,
) -> dict[str, Moments]:
    """Each probe is a group of its own."""
    readings = [
        reading_of(tokenizer, conversation(prompt), text, group)
        for group, (prompt, text) in enumerate(probes)
    ]
    return read_moments(
        model, readings, hooks, groups=len(probes), pad_id=pad_id(tokenizer), batch_size=batch_size
    )


def _by_layer(moments: Mapping[str, Moments], hooks: Sequence[Hook]) -> Tensor:
    """(groups, L, d)."""
    return torch.stack([moments[hook.name].means for hook in hooks], dim=1)


def _hook_reference(moments: Moments) -> HookReference:
    assert moments.sketch is not None
    subspace = persona_subspace(moments.means[FIT::2])
    return HookReference(
        subspace=subspace,
        sketch=moments.sketch,
        held_out=held_out_energy(subspace, moments.means[HELD_OUT::2]),
        tokens=int(moments.tokens.sum()),
    )


def _stream_hook(targets: Sequence[Target], layer: int) -> Hook:
    """The residual stream after a whole layer."""
    module = next(target.name for target in targets if target.layer == layer).rsplit(".", 2)[0]
    return Hook(f"{module}.output", module, "writes")


def _split(count: int, seed: int) -> list[int]:
    """FIT or HELD_OUT for every prompt; a quarter is held out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = set(order[: max(1, count // 4)])
    return [HELD_OUT if i in held_out else FIT for i in range(count)]
