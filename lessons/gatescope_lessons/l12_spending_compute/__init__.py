"""Lesson 12: leave a network early, and run as much of an MLP as a token needs."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Spending compute where it is needed",
    minutes=45,
    difficulty="intermediate",
    prerequisites=(
        "You know softmax, cross-entropy and what an MLP does in a transformer.",
        "Lesson 08 is of help: a router there also decides token by token.",
    ),
    after=(8,),
    objectives=(
        "compare two ways to leave early at the same average cost, and say why the cost must be the same",
        "measure calibration, and show what choosing by confidence does to it",
        "write the exit probabilities of JEI-DNN, and say what its gates and its exits learn from",
        "cut an MLP into learners, distil it, and hold it to a budget by gates that decide token by token",
    ),
    main_control="gs-leave-budget",
    main_view="gs-leave-numbers",
)
