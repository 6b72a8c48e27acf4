"""What may be done, by whom, and under which rules: page and command line do everything through `Services`. No torch at import.

caller.py    who asks, and which files of this machine they may name
places.py    what was typed for rows, a model or a checkpoint -> a full path, a name or a hub id
services.py  compare, train, evaluate, import, delete
"""

from gistdemo.services.caller import LOCAL, Caller, visitor
from gistdemo.services.services import Compared, Services

__all__ = ["LOCAL", "Caller", "Compared", "Services", "visitor"]
