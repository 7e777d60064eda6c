"""A base for widgets with their own JavaScript, which get messages even if it loads slowly."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

__all__ = ["Hearing", "code"]

_HERE: Final = Path(__file__).parent


class Hearing(anywidget.AnyWidget):
    """A widget whose code, made by `code`, calls ``hear(model)`` when it draws; see hearing.js."""

    _address = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        # Known before the first message, which might be lost.
        address = uuid.uuid4().hex
        super().__init__(model_id=address, _address=address, **traits)


def code(*names: str) -> str:
    """Return a widget's code together with the shared code.

    Args:
        *names: The names of files beside this one, in order.
    """
    return "".join((_HERE / each).read_text("utf-8") for each in ("hearing.js", *names))
