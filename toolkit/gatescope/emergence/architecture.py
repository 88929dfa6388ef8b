"""What an architecture foretells of a layer's parameters: the paper's features, and ridge regression on them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gatescope.errors import Refusal

#: name -> formula; l is the layer from 0, L the number of layers, d the width, H heads, F the width of the MLP.
FEATURES: dict[str, str] = {
    "position": "l / (L - 1)",
    "position^2": "(l / (L - 1))^2",
    "position^3": "(l / (L - 1))^3",
    "position^(1/2)": "(l / (L - 1))^(1/2)",
    "heads / width": "H / d",
    "MLP / width": "F / d",
    "width / depth": "d / L",
    "heads / depth": "H / L",
    "log width": "log d",
    "layer * depth": "l L",
}


def architecture_features(layer: int, *, n_layers: int, d_model: int, n_heads: int, hidden: int) -> dict[str, float]:
    """The features of one layer, in the order of FEATURES (Gallego-Feliciano et al. 2025, table 4).

    Raises Refusal for a layer that the model does not have.
    """
    if not 0 <= layer < n_layers:
        raise Refusal("architecture_features", f"a layer of 0 to {n_layers - 1}", str(layer), "count from 0")
    position = layer / max(n_layers - 1, 1)
    depth = [position, position**2, position**3, position**0.5]
    shape = [n_heads / d_model, hidden / d_model, d_model / n_layers, n_heads / n_layers]
    values = [*depth, *shape, float(np.log(d_model)), float(layer * n_layers)]
    return dict(zip(FEATURES, values, strict=True))


def predict_left_out(
    features: Float[np.ndarray, "n f"],
    targets: Float[np.ndarray, " n"],
    groups: np.ndarray,
    penalty: float = 1.0,
) -> Float[np.ndarray, " n"]:
    """Every target predicted by ridge regression from the rows of all other ``groups``, in the unit of targets.

        w = (Z^T Z + penalty I)^-1 Z^T (y - mean y),   Z the features scaled on the rows that are fitted

    Group rows by architecture to ask what is known of one never trained; group them at random, and layers of one model
    lie on both sides. Raises Refusal for fewer than two groups or lengths that differ.
    """
    features, targets, groups = np.asarray(features, float), np.asarray(targets, float), np.asarray(groups)
    if not len(features) == len(targets) == len(groups) or len(set(groups.tolist())) < 2:
        got = f"{len(features)}, {len(targets)}, {len(groups)} rows in {len(set(groups.tolist()))} groups"
        raise Refusal("predict_left_out", "as many rows of each, in two groups or more", got, "train more models")
    predicted = np.empty(len(targets))
    for group in np.unique(groups):
        test = groups == group
        mean, scale = features[~test].mean(0), features[~test].std(0)
        z = (features - mean) / np.where(scale > 0, scale, 1.0)
        level = targets[~test].mean()
        weights = np.linalg.solve(
            z[~test].T @ z[~test] + penalty * np.eye(z.shape[1]), z[~test].T @ (targets[~test] - level)
        )
        predicted[test] = z[test] @ weights + level
    return predicted


def r_squared(targets: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"]) -> float:
    """1 - sum (y - p)^2 / sum (y - mean y)^2: 0 is as good as the mean of all targets, below it is worse.

    Raises Refusal for targets that are all alike.
    """
    around = float(((targets - targets.mean()) ** 2).sum())
    if not around > 0:
        raise Refusal("r_squared", "targets that differ", f"{len(targets)} alike", "there is nothing to explain")
    return 1 - float(((targets - predicted) ** 2).sum()) / around


__all__ = ["FEATURES", "architecture_features", "predict_left_out", "r_squared"]
