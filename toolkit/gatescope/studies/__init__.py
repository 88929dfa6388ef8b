"""Studies: a lesson shows an effect, a study measures it over a grid.

    study = load("gate-atlas")                    # studies/gate-atlas.toml
    grid = expand(study, ["seed=0,1,2"])          # every point with its address, what is impossible named
    run(grid, Store.of(study), local(jobs=2))     # measures what is missing; may be killed and started again
    record = gather(grid, Store.of(study))        # one dataset along `point`, labelled by config

A point is a pure function, config -> record. Its address is a digest of config, code and data, so a finished point is
never measured again and a changed one never mistaken for it. `gatescope study` is the command line.

Importing this package loads neither torch nor xarray: a sweep that is finished says so at once.
"""

from gatescope.studies.expand import Grid, Impossible, Point, expand
from gatescope.studies.spec import Metric, Study, load, names
from gatescope.studies.store import Store

__all__ = ["Grid", "Impossible", "Metric", "Point", "Store", "Study", "expand", "load", "names"]
