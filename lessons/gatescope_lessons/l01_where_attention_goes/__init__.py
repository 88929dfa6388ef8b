"""Lesson 01: attention sinks and massive activations in a real pretrained model."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="Where does attention go?",
    minutes=40,
    difficulty="beginner",
    prerequisites=(
        "You have used PyTorch and know what queries, keys, values and softmax are.",
        "You need no paper: every term is measured here before it is used.",
    ),
    objectives=(
        "find the attention sink of a model you have never seen, and say how large it is against a uniform baseline",
        "compute first-token attention and row entropy without ever building the T x T matrix",
        "find massive activations, and show with a matched control that the model depends on them",
        "say why a sliding window breaks a model, and why one kept token mends it",
    ),
    main_control="gs-intervene-after_layer",
    main_view="gs-intervene-loss-bars",
)
