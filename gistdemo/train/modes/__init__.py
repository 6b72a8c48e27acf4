"""The ways of training a gist, by name, in the order they are offered."""

from gistdemo.train.mode import Mode
from gistdemo.train.modes.compressor import COMPRESSOR
from gistdemo.train.modes.embeddings import EMBEDDINGS
from gistdemo.train.modes.joint import JOINT

MODES: dict[str, Mode] = {mode.name: mode for mode in (EMBEDDINGS, JOINT, COMPRESSOR)}
