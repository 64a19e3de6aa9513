"""Captions from names: what an asset is, from its file and folder, and what a clip does, from the clip's name.

``animals_pack/Fox`` with the clip ``AnimalArmature|Walk`` is "a fox walking". The rules know how makers of game assets
write names (camel case, underscores, numbers, armature prefixes, adjectives after nouns) and a few hundred common
words; an unknown noun passes through as it is, an unknown clip becomes "moving".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch

from threestudio.utils.typing import Tensor

from ..rendering.scenes import PosedMeshes
from .caption_words import (
    ACTIONS,
    ADJECTIVES,
    AFTER_THE_NOUN,
    CLIP_NOISE,
    CLIP_PHRASES,
    COUNTED,
    DROPPED,
    FOLDER_NOISE,
    GENERIC,
    KINDS,
    MANNERS,
    MASS,
    NUMBERS,
    PEOPLE,
    PREFERRED_ACTIONS,
    ROOMS,
    SINGULAR_S,
    SPELT_OUT,
    STRIKES,
    TAILS,
    TOOLS,
    VAGUE,
    WHOLE,
)

PLAIN = ("{}",)
TEMPLATES = ("{}", "a 3D model of {}", "a picture of {}", "a rendering of {}")
MAX_WORDS = 12
STILL = "standing still"


def asset_caption(name: str, animated: bool | None = None) -> str:
    """What an asset is, with an article: "a fox", "a snowy pine tree", "flowers".

    Args:
        name: path of the asset's file without ending, ``folder/Fox`` or ``Fox``. The last folder helps when the name
            alone says little: ``women/Casual`` is "a casual woman", ``fish/Betta`` "a betta fish".
        animated: whether it has clips; a folder of fish may hold boats too, which do not move. By default, whether
            no folder is called ``static``.
    """
    *folders, stem = PurePosixPath(name).parts
    if animated is None:
        animated = "static" not in folders
    folder = _words(folders[-1]) if folders else []
    setting = [word for word in folder if word not in FOLDER_NOISE]
    kind = next((KINDS[word] for word in reversed(setting) if word in KINDS), None)
    before, head, after = _noun_phrase(stem)
    if not head:
        head = [kind or _singular(setting[-1])] if setting else ["object"]
    elif kind is not None and (animated or kind in PEOPLE) and head[-1] not in WHOLE and not head[-1].endswith(kind):
        head = head if kind in head else [*head, kind]
    if head[-1] in GENERIC and len(before) + len(head) < 4 and setting and _singular(setting[0]) not in head:
        before = [*before, _singular(setting[0])]
    return " ".join([_with_article([*before, *head]), *after])


def clip_action(clip: str, asset: str = "") -> str:
    """What a clip shows, as a participle: "walking", "running with a gun"; "moving" where its name does not tell.

    Args:
        clip: the clip's name, such as ``CharacterArmature|Walk`` or ``Deer_Walk``.
        asset: the asset's name, whose words are left out of the clip's.
    """
    tokens = _words(clip.rsplit("|", 1)[-1])
    phrases = []
    for pattern, text in CLIP_PHRASES:
        for start in range(len(tokens) - len(pattern) + 1):
            if tuple(tokens[start : start + len(pattern)]) == pattern:
                tokens[start : start + len(pattern)] = []
                phrases += [text] if text else []
                break
    own = set(_words(PurePosixPath(asset).name))
    actions, manners, tools, unknown = list(phrases), [], [], []
    for token in tokens:
        if token in ACTIONS or token in ACTIONS.values():
            actions.append(ACTIONS.get(token, token))
        elif token in MANNERS:
            manners.append(MANNERS[token])
        elif token in TOOLS:
            tools.append(f"with {_with_article([token])}")
        elif token not in own and token not in CLIP_NOISE:
            unknown.append(token)
    if len(actions) > 1:
        actions = [a for a in actions if a != STILL] or [STILL]
    if len(actions) > 1 and any(a in STRIKES for a in actions):
        actions = [a for a in actions if a not in VAGUE]
    if not actions:
        if len(unknown) == 1 and 3 <= len(unknown[0]) <= 10 and not (manners or tools):
            actions = [_participle(unknown[0])]
        else:
            actions = ["moving"]
    actions = list(dict.fromkeys(actions))[:2]
    if actions == [STILL] and tools:
        actions = ["standing"]
    return " ".join([" and ".join(actions), *dict.fromkeys(manners[:1]), *dict.fromkeys(tools[:1])])


def clip_caption(asset: str, clip: str, animated: bool | None = None) -> str:
    """A sentence for a clip of an asset: "a fox walking"; the asset alone where the clip has no name."""
    what = asset_caption(asset, animated)
    return f"{what} {clip_action(clip, asset)}" if clip else what


def choose_clips(clips: Sequence[str], most: int, asset: str = "") -> list[int]:
    """Which clips to keep when there are more than ``most``, in their old order: one for each action, common ones
    (walking, running, swimming ...) first."""
    actions = [clip_action(clip, asset) for clip in clips]
    first = [i for i, action in enumerate(actions) if actions.index(action) == i]
    repeats = [i for i in range(len(clips)) if i not in first]

    def rank(i: int) -> tuple[int, int]:
        known = next((k for k, action in enumerate(PREFERRED_ACTIONS) if action == actions[i]), None)
        if known is None:  # "running with a gun" after "running"
            known = next((k for k, a in enumerate(PREFERRED_ACTIONS) if a in actions[i]), 0) + len(PREFERRED_ACTIONS)
        return known, len(actions[i])

    return sorted((sorted(first, key=rank) + repeats)[:most])


@dataclass
class Captions:
    """The sentences of a set of meshes, and which of them belong to its poses and assets.

    Every caption stands in ``sentences`` once for each template, one after the other: caption c under template t is
    sentence ``c + t``. ``pose_caption`` and ``asset_caption_index`` hold the first of them (the bare caption when the
    templates start with "{}").
    """

    sentences: list[str]
    pose_caption: Tensor  # [P] long, on the meshes' device: asset and action
    asset_caption_index: Tensor  # [A] long: the asset alone
    templates: int = 1

    @classmethod
    def from_meshes(cls, meshes: PosedMeshes, templates: Sequence[str] = PLAIN) -> Captions:
        """Captions of meshes, in order of first use: the same meshes give the same sentences."""
        index: dict[str, int] = {}
        poses, assets, start = [], [], 0
        for name, clips, animated, count in zip(
            meshes.names, meshes.clips, meshes.animated, meshes.pose_counts, strict=True
        ):
            assets.append(index.setdefault(asset_caption(name, animated), len(index)))
            texts = [clip_caption(name, clip, animated) for clip in clips]
            numbers = [index.setdefault(text, len(index)) for text in texts]
            poses += [numbers[clip] for clip in meshes.pose_clip[start : start + count]]
            start += count
        sentences = [template.format(text) for text in index for template in templates]
        step, device = len(templates), meshes.device
        return cls(
            sentences, step * torch.tensor(poses, dtype=torch.long, device=device),
            step * torch.tensor(assets, dtype=torch.long, device=device), step,
        )  # fmt: skip

    def draw(self, pose: Tensor, pose_asset: Tensor, u: Tensor, action_share: float) -> Tensor:
        """[B] sentence numbers for poses [B], from uniform numbers u [2, B]: with the clip's action for
        ``action_share`` of them, the asset alone for the rest; any template."""
        plain = self.asset_caption_index[pose_asset[pose].long()]
        caption = torch.where(u[0] < action_share, self.pose_caption[pose], plain)
        return caption + (u[1] * self.templates).long().clamp_max(self.templates - 1)


def _words(text: str) -> list[str]:
    """Lower-case words of a name: camel case split; numbers and single letters dropped."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
    return [word.lower() for word in found if len(word) > 1]


def _noun_phrase(stem: str) -> tuple[list[str], list[str], list[str]]:
    """A file name's words before the noun, the noun, and what follows it ("with a gun").

    Makers put the noun first and qualities after underscores: ``BirchTree_Dead_Snow`` is a snowy dead birch tree.
    A later part in lower case that is no quality belongs to the noun: ``Manta_ray``.
    """
    before, head, after = [], [], []
    for part in re.split(r"[_\-. ]+", stem):
        counted = re.fullmatch(r"(\d)([A-Z][a-z]+)s?", part)
        if re.fullmatch(r"\d+x\d+", part):
            continue
        if counted:
            thing = _singular(counted[2].lower())
            words = [f"{NUMBERS[int(counted[1])]}-{COUNTED.get(thing, thing)}"]
            quality = True
        else:
            found = [word for word in _words(part) if word not in DROPPED]
            words = [ADJECTIVES.get(word, SPELT_OUT.get(word, word)) for word in found]
            if len(found) > 1 and found[-1] in ADJECTIVES and found[0] != "extra":  # CabinetSmall
                words = [words[-1], *words[:-1]]
            quality = (
                (not part[:1].islower() and found[-1:] != [] and found[-1] not in TAILS)
                or found[:1] == [part.lower()]
                and found[0] in ADJECTIVES
            )
        if "the" in words[1:]:  # a character's name: BarbaraTheBee
            words = words[words.index("the") + 1 :]
        if not words:
            continue
        if not head:
            head = words
        elif words[0] in AFTER_THE_NOUN and len(words) == 1:
            after.append(f"with {_with_article(words)}")
        elif quality and head[-1] in ROOMS and not counted:
            size = words[:1] if words[0] in ADJECTIVES else []
            before, head = [*size, *before], [*head, *words[len(size) :]]
        elif quality:
            before = [*map(_singular, words), *before]
        else:
            head = [*map(_singular, head), *words]
    if len(head) > 1 and head[-1] == "character":
        head = head[:-1]
    return before, head, after


def _with_article(words: list[str]) -> str:
    last = words[-1]
    plural = last.endswith("s") and not last.endswith(SINGULAR_S)
    if plural or last in MASS:
        return " ".join(words)
    vowel = words[0][0] in "aeiou" and not words[0].startswith(("uni", "one", "eu", "use", "ufo"))
    return " ".join(["an" if vowel else "a", *words])


def _singular(word: str) -> str:
    if word in KINDS:
        return KINDS[word]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(SINGULAR_S) else word


def _participle(verb: str) -> str:
    """The -ing form of a short verb: flap, flapping; bounce, bouncing; tie, tying."""
    if verb.endswith("ing"):
        return verb
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    if len(verb) <= 4 and re.search(r"(^|[^aeiou])[aeiou][^aeiouwxy]$", verb):
        return verb + verb[-1] + "ing"
    return verb + "ing"
