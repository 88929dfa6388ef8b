"""Lesson 09: fit Gaussian mixtures of experts by maximum likelihood, and see what no amount of data tells a router."""

from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="What a router can know",
    minutes=45,
    difficulty="advanced",
    prerequisites=(
        "You know softmax gating of experts, and what a likelihood is.",
        "A logarithmic plot in which a power of n is a straight line holds no terror.",
    ),
    after=(8,),
    objectives=(
        "fit a Gaussian mixture of experts by EM and say what of its error is the optimiser's",
        "read a rate of convergence from a log-log plot, and say which parameters a spare expert slows down",
        "say how large K must be when there are more experts than needed, and find a case where less does",
        "show why no data can tell the temperature of a linear gate, and how an activation mends it",
    ),
    main_control="gs-mixture-samples",
    main_view="gs-mixture-numbers",
)
