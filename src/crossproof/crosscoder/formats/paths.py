"""The layers that paths and modules name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crossproof.crosscoder.formats.foreign import INPUT_OF

MODULE = re.compile(rf"(?:{INPUT_OF})?(?:\w+\.)*(?:layers?|blocks?|h)\.([0-9]+)(?:\.\w+)*")
_FOLDER = re.compile(
    r"(?:(?:resid|mlp|attn|attention|att|transcoder)(?:_(?:pre|mid|post|in|out))?_)?"
    r"layers?[_-]?([0-9]+)(?:_width_.*)?(?:\.(?:safetensors|npz|npy|pth?))?",
    re.IGNORECASE,
)


def path_layer(path: Path) -> int | None:
    """The layer in the innermost component of a path that is a layer's name.

    The path as it is given: what links point to (a hub's cache has files named by hashes) says
    nothing. `layer_3`, `resid_post_layer_3`, `layers.3.mlp`, `blocks.3.hook_resid_pre` and
    `layer_3.safetensors` are such names; `layer_3_study` and `player_3` are not.
    """
    for part in reversed(Path(os.path.abspath(path)).parts):
        match = _FOLDER.fullmatch(part) or MODULE.fullmatch(part)
        if match:
            return int(match[1])
    return None
