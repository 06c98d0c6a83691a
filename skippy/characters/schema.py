"""What a character is: frozen data, made from YAML nodes, checked field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skippy.core.persona import ContrastPair, Persona, Trait
from skippy.core.style.reward_rules import Cost, IdentityRules, Marker, RewardRules
from skippy.yaml_nodes import Node

SMALLEST_EFFECT = 0.25
"""A quarter of the persona score's range [0, 1]: about one clear marker more (worth 0.4) in two answers of three."""


@dataclass(frozen=True)
class Prompt:
    """One everyday prompt, and which kind it is."""

    text: str
    kind: str


@dataclass(frozen=True)
class Floors:
    """Least helpfulness and coherence of an acceptable everyday answer."""

    helpfulness: float
    coherence: float


@dataclass(frozen=True)
class Character:
    """A character, whole."""

    name: str  # of the character
    digest: str  # sha256 of the canonical content, whatever file it came from
    system_prompt: str  # how to ask for it in words
    rules: RewardRules  # what the rewards need
    traits: tuple[Trait, ...]  # its named dimensions
    personas: tuple[Persona, ...]  # archetypes that span the personality subspace
    train_prompts: tuple[Prompt, ...]  # what it is trained on
    banal_prompts: tuple[Prompt, ...]  # what it is tested on; none of them trained on
    floors: Floors  # least acceptable helpfulness and coherence
    # rise of the persona score over the base from which on it counts as this character
    smallest_effect: float = SMALLEST_EFFECT
    # on which a matched dose is searched; neither trained on nor tested on. May be empty.
    validation_prompts: tuple[Prompt, ...] = ()
    # something to write in place of a question to answer, by kind; reported apart. May be empty.
    format_prompts: tuple[Prompt, ...] = ()

    def subspace_prompts(self, count: int = 50) -> tuple[Prompt, ...]:
        """`count` training prompts, all where there are fewer, spread evenly over the file and so over the kinds."""
        total = len(self.train_prompts)
        count = min(count, total)
        return tuple(self.train_prompts[i * total // count] for i in range(count))


FIELDS = ("name", "system_prompt", "length", "markers", "traits", "personas", "prompts")
SHARED_FIELDS = ("assistantisms", "identity")
OPTIONAL_FIELDS = ("extends", "scale", "openings", *SHARED_FIELDS, "floors", "smallest_effect")


def parse_traits(node: Node, markers: Sequence[Marker]) -> tuple[Trait, ...]:
    """The traits; each names markers that exist and has at least one contrastive pair."""
    known = {marker.name for marker in markers}
    traits: list[Trait] = []
    for entry in node.items(1):
        fields = entry.mapping(("name", "markers", "rubric", "pairs"))
        name = _slug(fields["name"])
        if name in {trait.name for trait in traits}:
            raise fields["name"].fail("A trait is named twice", expected="one trait a name", found=name)
        for used in fields["markers"].items(1):
            if used.text() not in known:
                raise used.fail(
                    "A trait counts a marker that does not exist",
                    expected=f"one of {', '.join(sorted(known))}",
                    found=used.text(),
                )
        pairs = tuple(_pair(pair) for pair in fields["pairs"].items(1))
        traits.append(Trait(name, fields["markers"].texts(), fields["rubric"].text(), pairs))
    return tuple(traits)


def parse_rules(
    fields: dict[str, Node],
    shared: dict[str, Node],
    markers: tuple[Marker, ...],
    traits: Sequence[Trait],
    floors: Floors,
) -> RewardRules:
    """The reward rules of a character file; the lists of `shared`, the file it extends, come before its own."""
    length = fields["length"].mapping(("min", "max"))
    shortest = length["min"].integer(1, 1000)
    longest = length["max"].integer(1, 10000)
    if longest < shortest:
        raise length["max"].fail(
            "The length band is empty", expected=f"at least {shortest} words", found=f"{longest}"
        )
    openings, opening_weight = _openings(fields.get("openings"))
    return RewardRules(
        markers=markers,
        assistantisms=_costs(shared.get("assistantisms"), fields.get("assistantisms")),
        openings=openings,
        opening_weight=opening_weight,
        scale=fields["scale"].number(0.1, 20) if "scale" in fields else 2.0,
        min_words=shortest,
        max_words=longest,
        identity=_identity(shared.get("identity"), fields.get("identity")),
        traits=tuple(traits),
    )


def parse_markers(node: Node) -> tuple[Marker, ...]:
    """Weighted markers; each pattern must find its own example."""
    markers: list[Marker] = []
    for entry in node.items(1):
        fields = entry.mapping(("name", "pattern", "weight", "example"), ("cap",))
        name, pattern, example = fields["name"].text(), fields["pattern"].pattern(), fields["example"].text()
        if name in {marker.name for marker in markers}:
            raise fields["name"].fail("A marker is named twice", expected="one marker a name", found=name)
        if not pattern.search(example):
            raise fields["example"].fail(
                "A marker's pattern misses its own example", expected=pattern.pattern, found=example
            )
        cap = fields["cap"].integer(1, 5) if "cap" in fields else 1
        markers.append(Marker(name, pattern, fields["weight"].number(0.01, 5), cap, example))
    return tuple(markers)


def parse_floors(node: Node | None) -> Floors:
    """The floors, or the usual ones: half helpful, coherence not below zero."""
    if node is None:
        return Floors(helpfulness=0.5, coherence=0.0)
    fields = node.mapping(("helpfulness", "coherence"))
    return Floors(fields["helpfulness"].number(0, 1), fields["coherence"].number(-5, 1))


def parse_personas(node: Node) -> tuple[Persona, ...]:
    """At least two archetypes; a subspace of one centroid is a point."""
    personas: list[Persona] = []
    for entry in node.items(2):
        fields = entry.mapping(("name", "system_prompt"))
        name = _slug(fields["name"])
        if name in {persona.name for persona in personas}:
            raise fields["name"].fail("A persona is named twice", expected="one persona a name", found=name)
        personas.append(Persona(name, fields["system_prompt"].text()))
    return tuple(personas)


def parse_prompts(node: Node) -> tuple[Prompt, ...]:
    """Prompts by kind; none twice."""
    prompts: dict[str, Prompt] = {}
    for kind, group in node.entries().items():
        for entry in group.items(1):
            text = entry.text()
            if prompt_key(text) in prompts:
                raise entry.fail("A prompt is given twice", expected="each prompt once", found=text)
            prompts[prompt_key(text)] = Prompt(text, kind)
    if not prompts:
        raise node.fail("There are no prompts", expected="kinds with lists of prompts", found="nothing")
    return tuple(prompts.values())


def prompt_key(text: str) -> str:
    """Letters and digits of a prompt in lower case: two prompts with one key are the same prompt."""
    return "".join(character for character in text.casefold() if character.isalnum())


def told_before(known: Sequence[Prompt], prompts: Sequence[Prompt]) -> Iterator[str]:
    """Those of some prompts that an earlier list has."""
    keys = {prompt_key(prompt.text) for prompt in known}
    yield from (prompt.text for prompt in prompts if prompt_key(prompt.text) in keys)


def _slug(node: Node) -> str:
    """A name fit for metric names and file names."""
    text = node.text()
    if not text.isascii() or not text.replace("_", "").replace("-", "").isalnum():
        raise node.fail(
            "A name has characters that metric names cannot hold",
            expected="letters, digits, - and _",
            found=text,
        )
    return text


def _pair(node: Node) -> ContrastPair:
    fields = node.mapping(("high", "low"))
    pair = ContrastPair(fields["high"].text(), fields["low"].text())
    if prompt_key(pair.high) == prompt_key(pair.low):
        raise node.fail(
            "A contrastive pair does not contrast", expected="two different prompts", found=pair.low
        )
    return pair


def _openings(node: Node | None) -> tuple[tuple, float]:
    if node is None:
        return (), 0.0
    fields = node.mapping(("weight", "patterns"))
    return tuple(entry.pattern() for entry in fields["patterns"].items(1)), fields["weight"].number(0, 5)


def _costs(*nodes: Node | None) -> tuple[Cost, ...]:
    """The entries of all lists; one with the name of an earlier list's stands in its place."""
    costs: dict[str, Cost] = {}
    for node in filter(None, nodes):
        own = [_cost(entry) for entry in node.items()]
        costs |= {cost.name: cost for cost in own}
    return tuple(costs.values())


def _cost(entry: Node) -> Cost:
    fields = entry.mapping(("name", "pattern", "cost", "example"))
    pattern, example = fields["pattern"].pattern(), fields["example"].text()
    if not pattern.search(example):
        raise fields["example"].fail(
            "A pattern misses its own example", expected=pattern.pattern, found=example
        )
    return Cost(fields["name"].text(), pattern, fields["cost"].number(0.01, 5), example)


def _identity(*nodes: Node | None) -> IdentityRules:
    """The lists of all nodes, one after the other; the last node is the character's own."""
    optional = ("claims", "forbidden_claims", "own_names", "forbidden_names", "questions")
    parts = [node.mapping((), optional) if node else {} for node in nodes]

    def patterns(name: str) -> tuple:
        return tuple(entry.pattern() for part in parts if name in part for entry in part[name].items())

    def names(name: str, part: dict[str, Node]) -> frozenset[str]:
        return frozenset(text.lower() for text in part[name].texts()) if name in part else frozenset()

    own, forbidden = names("own_names", parts[-1]), names("forbidden_names", parts[-1])
    if own & forbidden:
        raise parts[-1]["forbidden_names"].fail(
            "A name is both its own and forbidden",
            expected="disjoint lists",
            found=", ".join(sorted(own & forbidden)),
        )
    return IdentityRules(
        claims=patterns("claims"),
        forbidden_claims=_costs(*(part.get("forbidden_claims") for part in parts)),
        own_names=own,
        forbidden_names=forbidden.union(*(names("forbidden_names", part) for part in parts)) - own,
        questions=patterns("questions"),
    )
