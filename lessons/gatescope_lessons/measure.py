"""Measure a lesson's claims: its lab's MEASURE, stored with the terms that it will be judged by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gatescope import data, records
from gatescope.errors import Refusal
from gatescope.paths import data_dir

from gatescope_lessons.claims_ledger import TERMS_ATTR, terms_of
from gatescope_lessons.lesson_kit import Shelf
from gatescope_lessons.papers import Claim, load_claims

if TYPE_CHECKING:
    import xarray as xr


def measured(shelf: Shelf, folder: str, profile: str, claims: list[Claim] | None = None) -> xr.Dataset:
    """What ``lab.MEASURE(profile)`` of a lesson gives, with the digests of the terms its claims will be judged by.

    They are taken before measuring, so terms edited meanwhile do not match the record. Raises Refusal when the lesson
    declares no MEASURE.
    """
    terms = terms_of(folder, load_claims() if claims is None else claims)
    measurement = getattr(shelf.lab(folder), "MEASURE", None)
    if measurement is None:
        raise Refusal(
            f"measure {folder}", "MEASURE in its lab.py", "none", "declare MEASURE = <function of the profile>"
        )
    return measurement(profile).assign_attrs({TERMS_ATTR: terms, "profile": profile})


def measure(shelf: Shelf, folder: str, profile: str, claims: list[Claim] | None = None) -> Path:
    """Measure a lesson and keep its record as data/measured/<folder>.nc, with its row in the manifest.

    Raises Refusal when the lesson declares no MEASURE.
    """
    record = measured(shelf, folder, profile, claims)
    path = records.save(record, data_dir() / "measured" / f"{folder}.nc")
    data.register(
        path,
        licence="Apache-2.0",
        made_by=f"gatescope run {folder} --profile {profile}",
        description=f"Measurements of lesson {folder} that its claims are judged by",
    )
    return path
