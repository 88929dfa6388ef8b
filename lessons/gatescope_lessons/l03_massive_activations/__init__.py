"""Lesson 03: how a few hidden values come to dwarf all others, the law they are said to follow, and what they do."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Massive activations through training",
    minutes=40,
    difficulty="intermediate",
    prerequisites=(
        "Lesson 01: you have seen the largest hidden values of SmolLM2 and what happens without them.",
        "You have fitted a curve with a few parameters to points before.",
    ),
    after=(1,),
    objectives=(
        "say what counts as massive, and why a magnitude alone is not enough",
        "fit the five-parameter law of emergence, and read its turning point and steady value",
        "tell a law that fits from a law that is needed: rivals, criteria, held-out steps, held-out architectures",
        "find the block that writes a massive activation, and show what it does with an intervention and its controls",
    ),
    main_control="gs-law-decay",
    main_view="gs-law-numbers",
)
