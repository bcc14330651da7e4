"""Several outputs of one task that appear together or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gair_core.errors import BadInputError
from gair_core.inference import outputs


class Publication:
    """Outputs in the making: each is written under a name of its own and gets its real one at the end.

    Args:
        token: The request's token.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._staged: dict[Path, Path] = {}

    def stage(self, output: Path) -> Path:
        """Return where to write an output; it lies in the output's folder and keeps its ending."""
        staged = output.with_name(f"{output.name}.{self._token}.staged{output.suffix}")
        self._staged[output] = staged
        return staged

    def publish(self) -> None:
        """Give every output, and the style beside it, its name; after a failure the old files are back.

        Raises:
            BadInputError: Another program holds a destination open.
        """
        moves = [pair for output, staged in self._staged.items() for pair in _with_style(staged, output)]
        with contextlib.ExitStack() as undo:
            for staged, output in moves:
                kept = outputs.temporary_path(output, self._token, "old")
                if output.exists():
                    outputs.replace(output, kept)
                    undo.callback(kept.replace, output)
                else:
                    undo.callback(output.unlink, missing_ok=True)
                outputs.replace(staged, output)
            undo.pop_all()
        for output in self._staged:
            # What other programs kept beside an older file of this name is wrong now.
            for ending in (".aux.xml", ".ovr", ".msk"):
                output.with_name(output.name + ending).unlink(missing_ok=True)

    def explain(self, error: BadInputError) -> BadInputError:
        """Return an error that names the outputs as the user knows them."""
        message = error.message
        for output, staged in self._staged.items():
            message = message.replace(str(staged), str(output))
        return type(error)(message, error.hint)


def _with_style(staged: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    yield staged, output
    style = staged.with_suffix(".qml")
    if style.exists():
        yield style, output.with_suffix(".qml")


@contextlib.contextmanager
def published_together(token: str, *wanted: Path) -> Iterator[Publication]:
    """Publish the outputs when the block ends well; otherwise nothing is left of any of them.

    Args:
        token: The request's token.
        *wanted: The outputs.
    """
    with contextlib.ExitStack() as stack:
        for output in wanted:
            stack.enter_context(outputs.live(output, token))
            stack.enter_context(outputs.live(output.with_suffix(".qml"), token))
        publication = Publication(token)
        try:
            yield publication
            publication.publish()
        except BadInputError as error:
            raise publication.explain(error) from error
