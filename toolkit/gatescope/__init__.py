"""Gatescope: see what gates do.

The main job, in four lines:

    with Scope(model, probes=[Sinks(), Entropy(), Massive()]) as scope:
        model(tokens)
    record = scope.record()  # a labelled xarray.Dataset
    views.sink_heatmap(record)  # a figure; views.sink_heatmap_frame(record) gives the numbers it drew
"""

__version__ = "0.2.0"
