"""The start page: a map of the lessons, a look at the machine, and how a lesson goes, tried on one row of attention."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Start here",
    minutes=10,
    difficulty="beginner",
    objectives=(
        "find your way: what the lessons are, which comes first, and how far you are",
        "tell whether this machine has all that the lessons need",
        "predict, look and check an answer, as every lesson asks you to",
        "say what softmax cannot do that one gate can",
    ),
    main_control="gs-row-gate",
    main_view="gs-row-numbers",
)
