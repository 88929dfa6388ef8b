"""Lesson 02: train small models with and without a gate after attention, and watch the sink."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="One gate, no sink",
    minutes=45,
    difficulty="intermediate",
    prerequisites=("Lesson 01: you can read a sink map and know what value drain is.",),
    after=(1,),
    objectives=(
        "say why softmax forces a head that has nothing to do to look somewhere",
        "write a gated attention and softmax-off-by-one, each in a line or two",
        "train six variants of attention, compare their sinks over seeds, and say which differences are real",
        "blend a trained gate in and out, and predict what the sink map does",
    ),
    main_control="gs-gate-amount",
    main_view="gs-gate-numbers",
)
