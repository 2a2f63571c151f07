"""Requests that try to hurt a service: each is small to send, and meant to cost memory, time or a process."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

SIDE = 64
QUICK = {"strength": "0.5", "num_inference_steps": "2", "seed": "1"}
WEBUI_QUICK = {"denoising_strength": 0.5, "steps": 2, "width": SIDE, "height": SIDE}
MANY = 10_000
LONG = 65_536  # characters


@dataclass(frozen=True)
class HostileRequest:
    """A request for `httpx.AsyncClient.request`. `leave_after_s`: the client closes its connection then."""

    path: str
    arguments: dict[str, Any]
    method: str = "POST"
    headers: Mapping[str, Any] = field(default_factory=dict)
    leave_after_s: float | None = None


def hostile_requests() -> dict[str, HostileRequest]:
    """Each request by the name of what it tries."""
    return {**_images(), **_texts(), **_bodies(), **_headers(), **_leavers()}


def png(width: int = SIDE, height: int = SIDE, mode: str = "RGB", colour: int = 0) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(image: bytes, chunk: bytes) -> bytes:
    place = image.index(b"IDAT") - 4
    return image[:place] + chunk + image[place:]


def _native(image: bytes, mask: bytes | None = None, **fields: str) -> HostileRequest:
    files = {"image": ("a.png", image)} | ({"mask": ("m.png", mask)} if mask else {})
    return HostileRequest("/v1/img2img", {"data": QUICK | fields, "files": files})


def _webui(image: bytes | str, **fields: Any) -> HostileRequest:
    text = image if isinstance(image, str) else base64.b64encode(image).decode()
    return HostileRequest("/sdapi/v1/img2img", {"json": WEBUI_QUICK | {"init_images": [text]} | fields})


def _json(path: str, content: str) -> HostileRequest:
    return HostileRequest(path, {"content": content}, headers={"content-type": "application/json"})


def _images() -> dict[str, HostileRequest]:
    text = zlib.compress(bytes(64 * 2**20), 9)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(10_000)))
    frames = [Image.new("P", (SIDE, SIDE), index % 256) for index in range(300)]
    animation = io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    loop = b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 4, 1, SIDE) + struct.pack("<I", 8)
    return {
        "an image of 3.6 gigapixels in its header": _native(huge),
        "a text of 64 MiB in a PNG": _native(_with_chunk(png(), _chunk(b"zTXt", b"workflow\0\0" + text))),
        "a colour profile of 64 MiB": _native(_with_chunk(png(), _chunk(b"iCCP", b"icc\0\0" + text))),
        "an animation": _native(animation.getvalue()),
        "a TIFF whose directories form a loop": _native(loop),
        "half an image": _native(png(512, 512)[:-30]),
        "a line of 4000 x 1, cropped to a square": _webui(png(4000, 1), resize_mode=1, width=256, height=256),
        "a line of 1 x 4000, cropped to a line across": _webui(png(1, 4000), resize_mode=1, width=256, height=16),
        "a mask that changes nothing": _native(png(), mask=png(mode="L"), mask_mode="white"),
        "a mask of another shape": _native(png(), mask=png(3000, 2, "L", 255), mask_mode="white"),
    }


def _texts() -> dict[str, HostileRequest]:
    image = png()
    surrogate = {"inputs": base64.b64encode(image).decode(), "parameters": {"prompt": "\ud800"}}
    return {
        "unclosed LoRAs": _webui(image, prompt="<lora:" * (LONG // 6)),
        "a run of blanks": _webui(image, prompt="a" + " " * LONG + "b"),
        "brackets": _webui(image, prompt="(" * LONG),
        "a long prompt": _native(image, prompt="a cat " * (LONG // 6)),
        "a list of LoRAs": _native(image, loras="," * LONG),
        "a long model name": _native(image, model="m" * LONG),
        "a long task id": _webui(image, force_task_id="t" * LONG),
        "half a character": _json("/models/tiny-sd15", json.dumps(surrogate)),
        "text instead of base64": _webui("!" * LONG),
        "a seed beyond all numbers": _native(image, seed="1" + "0" * 400),
        "a strength that is no number": _native(image, strength="nan"),
        "steps without end": _native(image, num_inference_steps="99999999999999999999"),
    }


def _bodies() -> dict[str, HostileRequest]:
    fields = {f"f{index}": "x" for index in range(MANY)}
    no_boundary = {"content-type": "multipart/form-data"}
    return {
        "lists in lists": _json("/sdapi/v1/img2img", "[" * MANY + "]" * MANY),
        "ten thousand images": _webui("", init_images=["AAAA"] * MANY),
        "ten thousand fields": HostileRequest("/v1/img2img", {"data": fields, "files": {"image": png()}}),
        "no boundary": HostileRequest("/v1/img2img", {"content": b"--x\r\n" * 100}, headers=no_boundary),
        "no JSON": _json("/sdapi/v1/img2img", "{" * 100),
        "nothing": _json("/sdapi/v1/img2img", ""),
    }


def _headers() -> dict[str, HostileRequest]:
    return {
        "a password that is no text": HostileRequest("/v1/models", {}, "GET", {"authorization": b"Basic \xe9"}),
        "a foreign host": HostileRequest("/v1/models", {}, "GET", {"host": "attacker.example"}),
        "a long path": HostileRequest(f"/v1/models/{'%2e%2e%2f' * 500}", {}, "GET"),
        "an odd method": HostileRequest("/v1/models", {}, "PROPFIND"),
    }


def _leavers() -> dict[str, HostileRequest]:
    request = _native(png(256, 256), strength="1", num_inference_steps="150")
    return {
        "a client that leaves at once": HostileRequest(request.path, request.arguments, leave_after_s=0.01),
        "a client that leaves a running request": HostileRequest(request.path, request.arguments, leave_after_s=0.3),
    }
