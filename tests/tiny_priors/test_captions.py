"""Captions of names as makers of assets write them."""

import pytest
import torch

from threestudio_4d.tiny_priors.assets.captions import (
    MAX_WORDS,
    TEMPLATES,
    Captions,
    asset_caption,
    choose_clips,
    clip_action,
    clip_caption,
)
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("animals_pack/Fox", "a fox"),
        ("animals_pack/ShibaInu", "a shiba inu"),
        ("animals_pack/Horse_White", "a white horse"),
        ("animated/cute_fish_pack/Betta", "a betta fish"),
        ("animated/cute_fish_pack/Anglerfish", "an anglerfish"),
        ("animated/fish_pack/Manta_ray", "a manta ray"),
        ("animated/fish_pack/Fish2", "a fish"),
        ("static/cute_fish_pack/Boat", "a boat"),
        ("dinosaurs_pack/Triceratops", "a triceratops dinosaur"),
        ("modular_women/SciFi", "a sci fi woman"),
        ("ultimate_space_pack/Astronaut_RaeTheRedPanda", "a red panda astronaut"),
        ("ultimate_space_pack/Enemy_ExtraSmall", "an extra small space enemy"),
        ("cyberpunk_pack/Enemy_2Legs_Gun", "a two-legged cyberpunk enemy with a gun"),
        ("nature_pack/BirchTree_Dead_Snow_4", "a snowy dead birch tree"),
        ("nature_pack/CommonTree_1", "a tree"),
        ("nature_pack/Grass_Short", "short grass"),
        ("nature/Flowers", "flowers"),
        ("crops_pack/BushBerries_Crop", "a bush berry crop"),
        ("house_interior_pack/Bathroom_ToiletPaper", "a bathroom toilet paper"),
        ("house_interior_pack/Kitchen_3Drawers", "a three-drawer kitchen"),
        ("house_interior_pack/Column_SquareBig", "a big square column"),
        ("street_pack/Sign_Stop", "a stop sign"),
        ("single_knight_pack/KnightCharacter", "a knight"),
        ("nature_pack/Cactus_3", "a cactus"),
        ("Low Poly Fox 01", "a fox"),
        ("my_birds/eagle_low_poly", "an eagle"),
        ("my_birds/Finch", "a finch bird"),
        ("things/UFO", "a ufo"),
        ("bestiary/Quadruped_0042", "a quadruped"),
        ("dogs/001", "a dog"),
        ("001", "an object"),
    ],
)
def test_assets(name, caption):
    assert asset_caption(name) == caption


@pytest.mark.parametrize(
    ("clip", "asset", "action"),
    [
        ("AnimalArmature|Walk", "Fox", "walking"),
        ("Armature|Swimming_Normal", "Fish", "swimming"),
        ("Fish_Armature|Swimming_Fast", "Betta", "swimming fast"),
        ("Fish_Armature|Out_Of_Water", "Betta", "flopping out of water"),
        ("Deer_Walk", "pack/Deer", "walking"),
        ("Armature|Stegosaurus_Death", "Apatosaurus", "dying"),
        ("Walking", "", "walking"),
        ("Armature|Swim.001", "Fish2", "swimming"),
        ("CharacterArmature|Run_Shoot", "Character", "running and shooting"),
        ("CharacterArmature|Idle_Sword", "Character", "standing with a sword"),
        ("CharacterArmature|Sword_Slash", "Character", "slashing with a sword"),
        ("HumanArmature|swordAttackJump", "Knight", "attacking and jumping with a sword"),
        ("AnimalArmature|Attack_Kick", "Cow", "kicking"),
        ("AnimalArmature|Idle_HitReact_Left", "Cow", "being hit left"),
        ("AnimalArmature|Idle_2_HeadLow", "Fox", "standing still with its head low"),
        ("AnimalArmature|Jump_ToIdle", "Fox", "jumping"),
        ("TankArmature|Tank_TurningLeft", "Tank2", "turning left"),
        ("TankArmature|Tank_Backwards", "Tank2", "moving backwards"),
        ("HitRecieve_1", "Mike", "being hit"),
        ("Flying_Idle", "Enemy", "hovering"),
        ("No", "Mike", "shaking its head"),
        ("Armature|Flap", "Owl", "flapping"),
        ("mixamo.com", "Man", "moving"),
        ("Take 001", "Man", "moving"),
    ],
)
def test_clips(clip, asset, action):
    assert clip_action(clip, asset) == action


def test_a_sentence_joins_both():
    assert clip_caption("animals_pack/Fox", "AnimalArmature|Walk") == "a fox walking"
    assert clip_caption("nature/Flowers", "") == "flowers"


def test_the_common_clips_are_kept_and_none_twice():
    clips = ["Death", "Idle", "Idle_2", "Gun_Shoot", "Walk", "Run", "Run_Gun", "Armature|Walk"]
    assert [clips[i] for i in choose_clips(clips, 3)] == ["Idle", "Walk", "Run"]
    assert choose_clips(clips[:2], 6) == [0, 1]
    assert [clips[i] for i in choose_clips(clips, 7)][-1] == "Run_Gun"  # repeats come last of all


@pytest.fixture
def meshes():
    triangle = torch.tensor([[0, -0.4, -0.4], [0, 0.4, -0.4], [0, 0, 0.5]]).numpy()
    names = ["animals_pack/Fox", "nature_pack/Rock_1", "nature_pack/Rock_2"]
    meshes = PosedMeshes.from_arrays(
        [triangle[None].repeat(4, 0), triangle, triangle], [torch.tensor([[0, 1, 2]]).numpy()] * 3,
        [torch.ones(3, 3).numpy()] * 3, names=names,
    )  # fmt: skip
    meshes.clips[0], meshes.pose_clip = ["Armature|Walk", "Armature|Run"], [0, 0, 1, 1, 0, 0]
    return meshes


def test_poses_and_assets_know_their_sentences(meshes):
    captions = Captions.from_meshes(meshes)
    assert captions.sentences == ["a fox", "a fox walking", "a fox running", "a rock"]
    assert captions.pose_caption.tolist() == [1, 1, 2, 2, 3, 3]
    assert captions.asset_caption_index.tolist() == [0, 3, 3]


def test_templates_stand_next_to_each_other(meshes):
    captions = Captions.from_meshes(meshes, TEMPLATES)
    n = captions.templates = len(TEMPLATES)
    first = captions.pose_caption[2]
    assert captions.sentences[first : first + n] == [t.format("a fox running") for t in TEMPLATES]
    assert all(len(sentence.split()) <= MAX_WORDS for sentence in captions.sentences)
    pose = torch.tensor([2, 2, 2, 5])
    u = torch.tensor([[0.1, 0.1, 0.9, 0.9], [0.0, 0.99999, 0.0, 0.3]])
    drawn = captions.draw(pose, meshes.pose_asset, u, action_share=0.5)
    said = [captions.sentences[i] for i in drawn]
    assert said == ["a fox running", TEMPLATES[-1].format("a fox running"), "a fox", TEMPLATES[1].format("a rock")]
