import numpy as np
import pytest

from stan_jax.metrics import tracking


def random_scene(rng, objects, tracks, values):
    """values: what overlaps are drawn from; each two that meet are in the scene."""
    frames = 12
    true, predicted = (rng.random((frames, k)) < 0.8 for k in (objects, tracks))
    t, n, m = np.nonzero(true[:, :, None] & predicted[:, None])
    overlap = values(rng, len(t))
    # As masks have it: most tracks follow one object.
    overlap[(m % objects != n) & (rng.random(len(t)) < 0.9)] = 0
    numbers = [*range(objects)], [*range(tracks)]
    return tracking.Scene(true, predicted, t, n, m, overlap, *numbers)


VALUES = {
    "any": lambda rng, k: rng.uniform(0, 1, k),
    "high": lambda rng, k: rng.uniform(0.45, 1, k),
    "few": lambda rng, k: rng.choice([0, 0.3, 0.5, 0.75, 1], k),  # ties
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 9), (5, 4), (6, 2)])
def test_where_no_assignment_is_searched_for_it_would_have_found_the_same(
    monkeypatch, shape, values
):
    searched, spared = [], 0
    scenes = [
        random_scene(np.random.default_rng(seed), *shape, VALUES[values])
        for seed in range(20)
    ]
    got = [tracking.held(scene) for scene in scenes]
    for scene in scenes:
        _, contested = tracking._best(scene, scene.overlap)
        spared += (~contested[scene.t]).sum()
    monkeypatch.setattr(
        tracking,
        "_best",
        lambda scene, _: (np.zeros(0, int), np.ones(len(scene.true), bool)),
    )
    for scene, mine in zip(scenes, got, strict=True):
        want = tracking.held(scene)
        searched.append(want.clear["CLR_TP"])
        assert mine.clear == want.clear
        assert mine.hota.keys() == want.hota.keys()
        for name, value in want.hota.items():
            np.testing.assert_array_equal(mine.hota[name], value, name)
    assert spared
    assert sum(searched)
