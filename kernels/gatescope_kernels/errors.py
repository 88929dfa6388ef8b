"""The one form every error of this project takes."""


class Refusal(ValueError):
    """An operator could not do what was asked.

    The message always names four things: the operator, what it wanted, what it got, and the next step.

    >>> str(Refusal("gated_attention", "gate [B H T V] = (2, 8, 64, 32)", "(2, 8, 64)", "pass gate[..., None]"))
    'gated_attention: wanted gate [B H T V] = (2, 8, 64, 32), got (2, 8, 64); pass gate[..., None]'
    """

    def __init__(self, operator: str, wanted: str, got: str, next_step: str) -> None:
        self.operator, self.wanted, self.got, self.next_step = operator, wanted, got, next_step
        super().__init__(f"{operator}: wanted {wanted}, got {got}; {next_step}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        # A pool brings a worker's error back by its arguments, and would hang on one that it cannot make again.
        return type(self), (self.operator, self.wanted, self.got, self.next_step)
