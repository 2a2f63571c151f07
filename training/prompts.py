"""The words for each style, and the prompts that training draws from them."""

import random
import re

SYNONYMS: dict[str, tuple[str, ...]] = {
    "photo": (
        "photograph",
        "photorealistic",
        "realistic photo",
        "studio camera",
        "45mm lens",
        "camera focus",
        "natural",
    ),
    "pencil sketch": ("pencil drawing", "sketch", "graphite drawing", "charcoal drawing", "line drawing", "hand drawn"),
    "watercolour": ("watercolor", "watercolor painting", "watercolour painting", "aquarelle", "water color", "wash"),
    "oil painting": ("van gogh", "van gogh style", "oil on canvas", "impasto", "impressionist painting", "oil paint"),
    "cartoon": ("comic", "comic book", "cartoon style", "caricature", "toon", "cel shaded"),
    "pixel art": ("pixel", "8 bit", "8-bit", "16-bit game", "pixelated", "retro game"),
    "mosaic": ("stained glass", "tiles", "mosaic tiles", "roman mosaic", "tessera", "leaded glass"),
    "blueprint": ("technical drawing", "cyanotype", "blue print", "architect plan", "construction plan", "schematic"),
    "cubist": ("picasso", "cubism", "picasso style", "cubist painting", "facets", "low poly"),
    "pastel anime": ("ghibli", "ghibli style", "studio ghibli", "anime", "anime style", "pastel"),
    "woodblock print": ("ukiyo-e", "woodblock", "hokusai", "japanese print", "woodcut", "linocut"),
    "neon night": ("neon", "cyberpunk", "neon lights", "synthwave", "glowing neon", "vaporwave"),
    "sepia": ("vintage", "old photo", "vintage photo", "antique photo", "daguerreotype", "sepia tone"),
}
STYLES = tuple(SYNONYMS)
# what the script that this project replaces asked for
SCRIPT_PROMPTS = (
    "with a cat in the corner",
    "in the style of picasso",
    "45mm focus with a studio camera",
    "ghibli style, a fantasy landscape with castles",
)


def _choices(text: str) -> list[str]:
    return [choice.strip() for choice in text.split("|")]


_SUBJECTS = _choices(
    """
    a cat | a dog | a woman | a man | a portrait | a face | an astronaut | a girl | a boy | a house | an old house
    | a castle | a city | a street | a car | a rocket | a ship | a boat | a forest | a tree | trees | a mountain |
    mountains | the sea | a lake | a river | a beach | a landscape | a garden | flowers | a rose | a bird |
    a horse | a fish | a dragon | a cup of coffee | fruit | food | a table | a room | stars | the night sky |
    the moon | a sunset | clouds | snow | a bridge | a robot | a person | people | a still life | an animal |
    my holiday | this picture
    """
)
_EXTRAS = _choices(
    """
    highly detailed | detailed | beautiful | best quality | masterpiece | soft light | bright | dark | colourful |
    vivid | 4k | fantasy | trending | elegant | simple | red | blue | green | golden | dramatic | peaceful |
    in summer | in winter | at dawn | with a hat | on a table
    """
)
_FORMS = _choices(
    """
    {style} | {style} | {style} | {style} style | {style} of {subject} | a {style} of {subject} |
    {subject}, {style} | {subject} as a {style} | {subject} in {style} style | {style}, {extra} | {extra} {style}
    | {subject}, {style}, {extra} | {extra} {style} of {subject} | turn it into a {style} | make this a {style} |
    {subject} in the style of {style} | {style} {word} | {word} {style}, {extra}
    """
)

_FORMS_WITHOUT_STYLE = _choices(
    """
    {subject} | {extra} {subject} | {subject}, {extra} | with {subject} | with {subject} in the corner |
    a picture of {subject}
    """
)


def all_words() -> list[str]:
    """Every word that a prompt here may have, lower case, in alphabetical order."""
    texts = (*SYNONYMS, *(name for names in SYNONYMS.values() for name in names), *SCRIPT_PROMPTS)
    return sorted(set(re.findall("[a-z]+", " ".join((*texts, *_SUBJECTS, *_EXTRAS, *_FORMS, *_FORMS_WITHOUT_STYLE)))))


def prompt_for(style: str) -> str:
    """The plainest prompt for a style: its name."""
    return style


def draw_prompt(style: str, rng: random.Random) -> str:
    """A prompt for the style: its name or a synonym, half of the time each, alone or among other words.

    Words that name no style ask for a photo, so a third of the prompts for a photo have no other words.
    """
    if style == "photo" and rng.random() < 0.3:
        return rng.choice(_FORMS_WITHOUT_STYLE).format(subject=rng.choice(_SUBJECTS), extra=rng.choice(_EXTRAS))
    name = style if rng.random() < 0.5 else rng.choice(SYNONYMS[style])
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    prompt = rng.choice(_FORMS).format(style=name, subject=rng.choice(_SUBJECTS), extra=rng.choice(_EXTRAS), word=word)
    return prompt.capitalize() if rng.random() < 0.2 else prompt
