"""The lessons as a site to read without running anything: `gatescope site`."""
