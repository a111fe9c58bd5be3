import jax
import pytest
import small

from stan_jax.annotations import youtube_vis
from stan_jax.loading import batches
from stan_jax.planning import blueprint
from stan_jax.training import layout
from stan_jax.training import mesh as meshes


def test_batch_has_the_shapes_and_types_of_what_the_loader_gives(make_folder):
    folder = make_folder()
    dataset = youtube_vis.load(folder.path, folder.frames)
    data = small.config(data__batch=2, data__frames=3)["data"]
    loader = batches.pairs(
        [(dataset, 1.0)],
        batch=2,
        canvas=data["canvas"],
        gap="any",
        flip=0.5,
        seed=0,
        max_objects=data["max_objects"],
        num_threads=0,
        frames=3,
    )
    real = next(loader)
    loader.close()
    shapes = blueprint.pairs(data)
    for name in real._fields:
        x, shape = getattr(real, name), getattr(shapes, name)
        assert (x.shape, x.dtype) == (shape.shape, shape.dtype), name


@pytest.mark.parametrize("cut", [False, True])
def test_state_lies_whole_or_in_pieces_as_the_config_says(cut):
    config, mesh = small.config(run__shard_state=cut), meshes.make_mesh(2)
    _, state, _ = blueprint.update(config, blueprint.model(config, 2), mesh)
    found = jax.tree.map(lambda x: x.sharding.spec, state)
    assert found == layout.cuts(state, 2 if cut else 1)
