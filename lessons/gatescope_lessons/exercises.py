"""Checks that diagnose: an answer passes, is not attempted, or gets the first thing wrong with it and the next hint.

    @exercise(hints=("A row of weights sums to one.", "Leave out the terms with weight 0."))
    def row_entropy(answer):
        return compare(answer(WEIGHTS), entropy(WEIGHTS), axes=("query",))

In the notebook the last line of the exercise cell is ``checks.row_entropy(row_entropy)``.
"""

from __future__ import annotations

import dis
import functools
import html
import linecache
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import EllipsisType, FunctionType, MethodType
from typing import Literal

from gatescope.errors import Refusal

from gatescope_lessons import journal

Status = Literal["passed", "not attempted", "not yet", "cannot run here"]

_COLOUR: dict[Status, str] = {
    "passed": "var(--jp-success-color1, #2e7d32)",
    "not attempted": "var(--jp-info-color1, #0277bd)",
    "not yet": "var(--jp-warn-color1, #ef6c00)",
    "cannot run here": "var(--jp-info-color1, #0277bd)",
}


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one attempt; true when it passed. Jupyter shows it as a coloured note, print as plain text."""

    status: Status
    detail: str = ""
    hint: str = ""
    notice: str = ""

    def __bool__(self) -> bool:
        return self.status == "passed"

    def __repr__(self) -> str:
        first = f"{self.status}: {self.detail}" if self.detail else self.status
        return "\n".join(
            [first, *([f"hint: {self.hint}"] if self.hint else []), *([self.notice] if self.notice else [])]
        )

    def _repr_html_(self) -> str:
        rows = [f"<b>{self.status}</b>" + (f": {_escaped(self.detail)}" if self.detail else "")]
        rows += [f"<i>Hint:</i> {_escaped(self.hint)}"] if self.hint else []
        rows += [f"<small>{_escaped(self.notice)}</small>"] if self.notice else []
        style = f"border-left: 4px solid {_COLOUR[self.status]}; padding: .3em .8em; margin: .3em 0"
        return f'<div class="gs-check" role="status" style="{style}">{"<br>".join(rows)}</div>'


@dataclass(slots=True)
class Exercise:
    """One exercise: a check of the learner's answer and a ladder of hints.

    ``check(*answers)`` returns None when the answer is right, else the first thing wrong with it. Functions reach it
    guarded: what goes wrong inside them, and a blank they still hold, is told to the learner. Calling the exercise
    never raises for a wrong answer; it raises Refusal when the check itself returns something other than text or None.
    Each wrong attempt shows the next hint. ``afterword`` is what a right answer means. ``needs`` is a package without
    which the check cannot be made; where it is not installed, the learner is told so, whatever the answer.
    """

    name: str
    check: Callable[..., str | None]
    hints: tuple[str, ...] = ()
    afterword: str = ""
    needs: str = ""
    wrong_attempts: int = field(default=0, init=False)

    def __call__(self, *answers: object) -> Result:
        """Check an answer: a function, a value, or several of them."""
        status, detail = self._judge(answers)
        hint = ""
        if status == "not yet":
            if self.hints:
                hint = self.hints[min(self.wrong_attempts, len(self.hints) - 1)]
            self.wrong_attempts += 1
        notice = journal.note("exercise", self.name, lesson=self.lesson, status=status, detail=detail)
        return Result(status, detail, hint, notice)

    @property
    def lesson(self) -> str:
        """The package that the check stands in: the folder of its lesson."""
        return self.check.__module__.rpartition(".")[0].rpartition(".")[2]

    def _judge(self, answers: Sequence[object]) -> tuple[Status, str]:
        if self.needs and find_spec(self.needs) is None:
            return "cannot run here", f"this check needs the package {self.needs}, which is not installed here"
        blank: tuple[Status, str] = ("not attempted", "put your answer in place of the ... and run the cell again")
        if not answers or any(_holds_blank(answer) for answer in answers):
            return blank
        try:
            wrong = self.check(*(_guarded(answer) for answer in answers))
        except _BlankError:
            return blank
        except _AnswerError as error:
            return "not yet", str(error)
        except (
            Exception
        ) as error:  # a check meets answers that no author foresaw; the learner gets a sentence, never a crash
            kinds = ", ".join(type(answer).__name__ for answer in answers)
            return "not yet", f"the check cannot read your answer ({kinds}): {type(error).__name__}: {error}"
        if wrong is not None and not isinstance(wrong, str):
            raise Refusal(f"check of {self.name}", "None or a sentence", repr(wrong), "return compare(...) or a text")
        return ("passed", self.afterword) if wrong is None else ("not yet", wrong)


def exercise(
    *, hints: Sequence[str] = (), afterword: str = "", needs: str = ""
) -> Callable[[Callable[..., str | None]], Exercise]:
    """Make a check function an `Exercise` of the same name."""

    def decorate(check: Callable[..., str | None]) -> Exercise:
        return Exercise(check.__name__, check, tuple(hints), afterword, needs)

    return decorate


class _BlankError(Exception):
    """The learner's function still holds a blank."""


class _AnswerError(Exception):
    """The learner's function raised; the message says what and where."""


def _guarded(answer: object) -> object:
    if not isinstance(answer, FunctionType | MethodType):
        return answer

    @functools.wraps(answer)
    def call(*args: object, **kwargs: object) -> object:
        try:
            value = answer(*args, **kwargs)
        except Exception as error:
            if "ellipsis" in str(error).lower():  # a blank met an operator
                raise _BlankError from error
            raise _AnswerError(_told(error, answer)) from error
        if _holds_blank(value):
            raise _BlankError
        return value

    return call


def _told(error: Exception, answer: FunctionType | MethodType) -> str:
    what = f"your code raised {type(error).__name__}: {error}".rstrip(": ")
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == answer.__code__.co_filename
    ]
    if not frames:
        return f"{what} (when called as the exercise asks; compare the arguments)"
    line = frames[-1].line or linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
    return f"{what}, at line {frames[-1].lineno}" + (f": {line}" if line else "")


def _holds_blank(value: object) -> bool:
    if isinstance(value, EllipsisType):
        return True
    if isinstance(value, FunctionType):
        return _is_empty(value)
    if isinstance(kernel := getattr(value, "fn", None), FunctionType):  # Triton's, where ... stands for nothing else
        return _is_empty(kernel) or ... in kernel.__code__.co_consts
    if isinstance(value, list | tuple | set):
        return any(_holds_blank(item) for item in value)
    return isinstance(value, dict) and any(_holds_blank(item) for item in value.values())


def _is_empty(function: FunctionType) -> bool:
    """Whether the body does nothing, as `...` or a docstring alone does."""
    code = [step for step in dis.get_instructions(function) if step.opname not in {"RESUME", "NOP"}]
    names = [step.opname for step in code]
    return names in (["LOAD_CONST", "RETURN_VALUE"], ["RETURN_CONST"]) and code[0].argval is None


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
