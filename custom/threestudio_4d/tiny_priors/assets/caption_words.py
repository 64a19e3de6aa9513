"""The words that ``captions`` knows: common names of clips, qualities after nouns, and what to leave out."""

from __future__ import annotations

# Parts of clip names, and what an asset does in them.
ACTIONS = {
    "walk": "walking", "run": "running", "gallop": "galloping", "trot": "trotting", "swim": "swimming",
    "fly": "flying", "jump": "jumping", "hop": "hopping", "dance": "dancing", "wave": "waving", "roll": "rolling",
    "eat": "eating", "attack": "attacking", "kick": "kicking", "punch": "punching", "bite": "biting",
    "headbutt": "headbutting", "slash": "slashing", "shoot": "shooting", "throw": "throwing", "cast": "casting",
    "idle": "standing still", "stand": "standing still", "sit": "sitting", "sleep": "sleeping", "crouch": "crouching",
    "duck": "ducking", "crawl": "crawling", "climb": "climbing", "fall": "falling", "land": "landing",
    "landing": "landing", "death": "dying", "dead": "dying", "die": "dying", "interact": "reaching out",
    "hello": "waving hello", "yes": "nodding", "no": "shaking its head", "weapon": "swinging a weapon",
    "open": "opening", "close": "closing", "on": "switching on", "off": "switching off", "activate": "springing up",
    "turn": "turning", "spin": "spinning", "bounce": "bouncing", "drive": "driving", "float": "floating",
    "hover": "hovering", "flap": "flapping", "clap": "clapping", "cheer": "cheering", "point": "pointing",
    "talk": "talking", "roar": "roaring", "howl": "howling", "bark": "barking", "peck": "pecking", "dig": "digging",
    "sprint": "sprinting", "jog": "jogging", "sneak": "sneaking", "dash": "dashing", "dodge": "dodging",
    "block": "blocking", "push": "pushing", "pull": "pulling", "stretch": "stretching", "shake": "shaking",
    "victory": "cheering", "taunt": "taunting", "pickup": "picking something up", "grow": "growing",
}  # fmt: skip

# Runs of words in clip names, longest first; an empty text leaves them out.
CLIP_PHRASES = (
    (("out", "of", "water"), "flopping out of water"),
    (("swimming", "impulse"), "darting forwards"),
    (("pick", "up"), "picking something up"),
    (("idle", "gun", "pointing"), "pointing a gun"),
    (("gun", "shoot"), "shooting a gun"),
    (("flying", "idle"), "hovering"),
    (("jump", "to", "idle"), "jumping"),
    (("jump", "land"), "landing"),
    (("jump", "landing"), "landing"),
    (("jump", "idle"), "falling"),
    (("hit", "react"), "being hit"),
    (("hit", "recieve"), "being hit"),
    (("hit", "receive"), "being hit"),
    (("get", "hit"), "being hit"),
    (("no", "height"), ""),
    (("in", "place"), ""),
    (("to", "idle"), ""),
)

MANNERS = {
    "fast": "fast", "quick": "fast", "slow": "slowly", "left": "left", "right": "right", "back": "backwards",
    "backward": "backwards", "backwards": "backwards", "forward": "forwards", "forwards": "forwards", "up": "up",
    "down": "down", "tall": "upright", "holding": "with something in its hands", "headlow": "with its head low",
    "low": "with its head low",
}  # fmt: skip
TOOLS = {"gun", "sword", "rifle", "pistol", "bow", "axe", "spear", "staff", "shield", "hammer", "torch", "club"}
STRIKES = {"kicking", "punching", "biting", "headbutting", "slashing", "shooting"}  # say more than VAGUE does
VAGUE = {"attacking"}
CLIP_NOISE = {
    "armature", "rig", "anim", "animation", "action", "clip", "take", "scene", "mixamo", "com", "base", "layer",
    "loop", "cycle", "normal", "front", "neutral", "default", "pose", "all", "new", "root", "motion", "head", "big",
    "small", "bind", "rest", "main", "start", "end", "of", "to", "in", "the",
}  # fmt: skip
# Kept first when an asset has more clips than asked for.
PREFERRED_ACTIONS = (
    "walking", "swimming", "flying", "running", "galloping", "jumping", "dancing", "swimming fast", "flying fast",
    "galloping and jumping", "waving", "waving hello", "eating", "rolling", "standing still", "hovering", "punching",
    "kicking", "attacking", "biting", "slashing with a sword", "shooting", "headbutting", "picking something up",
    "nodding", "shaking its head", "ducking", "landing", "falling", "dying", "being hit",
)  # fmt: skip

# Words of file names.
ADJECTIVES = {
    "snow": "snowy", "moss": "mossy", "small": "small", "big": "big", "large": "large", "angry": "angry",
    "golden": "golden", "white": "white", "black": "black", "long": "long", "short": "short", "medium": "medium",
    "flying": "flying", "spiky": "spiky", "recieve": "receive",
}  # fmt: skip
DROPPED = {
    "lvl", "level", "lod", "mesh", "model", "rig", "rigged", "animated", "anim", "final", "copy", "export", "resource",
    "low", "poly", "lowpoly", "quaternius", "modular", "humanoid", "object", "armature",
    "my", "common", "single", "default", "middle", "center",
}  # fmt: skip
SPELT_OUT = {"ar": "assault rifle", "smg": "submachine gun", "ac": "air conditioner", "npc": "person", "rpg": "rocket"}
TAILS = {"crop", "group", "stack", "pile", "set", "sail"}  # BirchTree_Group is a group, not a quality
COUNTED = {"leg": "legged", "arm": "armed", "eye": "eyed", "head": "headed"}
AFTER_THE_NOUN = {"gun", "sword", "shield", "hat", "bow", "axe", "hammer"}
ROOMS = {"bathroom", "kitchen", "bedroom", "garden", "office"}
GENERIC = {"character", "enemy", "monster", "player", "hero", "boss", "base", "thing", "building", "connector"}
MASS = {
    "grass", "hay", "wheat", "corn", "rice", "bamboo", "lettuce", "smoke", "thunder", "fruit", "armor", "toilet-paper",
    "gold", "moss", "berries",
}  # fmt: skip
SINGULAR_S = ("ss", "us", "is", "ops", "as")  # endings of words that are no plurals
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Words of folder names.
FOLDER_NOISE = {
    "pack", "packs", "game", "ultimate", "easy", "cute", "simple", "modular", "single", "real", "time", "set", "kit",
    "models", "model", "assets", "asset", "animated", "static", "glb", "gltf", "low", "poly", "lowpoly", "quaternius",
    "free", "vol", "volume", "the", "of", "and", "stylized", "textured", "rigged", "collection", "mega", "bundle",
}  # fmt: skip
# A folder of these says what its moving assets are; ``WHOLE`` names say it themselves.
KINDS = {
    "fish": "fish", "dinosaur": "dinosaur", "dinosaurs": "dinosaur", "dino": "dinosaur", "mech": "mech",
    "mechs": "mech", "men": "man", "man": "man", "women": "woman", "woman": "woman", "bird": "bird", "birds": "bird",
    "dogs": "dog", "cats": "cat", "robots": "robot", "insects": "insect", "snakes": "snake", "cars": "car",
    "zombies": "zombie", "dragons": "dragon",
}  # fmt: skip
PEOPLE = {"man", "woman"}
WHOLE = {
    "shark", "whale", "dolphin", "ray", "orca", "seal", "turtle", "octopus", "squid", "jellyfish", "eel", "owl",
    "eagle", "duck", "chicken", "penguin", "parrot", "crow", "pigeon", "goose", "swan", "trex", "person",
}  # fmt: skip
