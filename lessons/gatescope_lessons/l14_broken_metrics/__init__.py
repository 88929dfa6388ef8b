"""Lesson 14: metrics that look like findings and are wrong: see the number, find the fault, repair it."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="The broken metric clinic",
    minutes=45,
    difficulty="intermediate",
    prerequisites=(
        "Lesson 01: you know first-token attention and row entropy.",
        "Lesson 08: you know what a router, its load and its balancing loss are.",
    ),
    after=(8, 1),
    objectives=(
        "ask of any number what it takes on an input whose answer is known, before believing it",
        "name eight faults that turn a plausible metric into a false finding, and the control that shows each",
        "repair five of them so that they stand the inputs that others fail on",
        "say for each where the fault does no harm, and so why nobody noticed",
    ),
    main_control="gs-clinic-dose",
    main_view="gs-clinic-card",
)
