"""The sizes of ResNet-50, and the classes that it is trained on here."""

from __future__ import annotations

# Blocks, and channels inside one, of the four stages; a block gives out four times its channels.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
WIDER = 4
SIZE = 224
CLASSES = ("horizontal", "vertical", "rising", "falling", "checks", "clouds")
