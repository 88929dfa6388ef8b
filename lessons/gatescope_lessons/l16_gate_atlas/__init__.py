"""Lesson 16: forty gates in one small model; which place, which function, which freedom matters."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="The gate atlas",
    minutes=45,
    difficulty="intermediate",
    prerequisites=("Lesson 02: you know what a gate after attention does to the sink.",),
    after=(2,),
    objectives=(
        "name the five places of a gate in attention and say which of them lower the sink",
        "tell what a gate's non-linearity does from what its sparsity does, with controls that have one of the two",
        "compare forty gates with paired seeds and a correction for many comparisons",
        "hold a published table beside your own and say where its order carries over and where it does not",
    ),
    main_control="gs-atlas-vary",
    main_view="gs-atlas-numbers",
)
