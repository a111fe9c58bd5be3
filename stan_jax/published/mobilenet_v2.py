"""Names in the `.npz` of a MobileNetV2 trained on ImageNet; kernels are as ours."""

from stan_jax.published.names import Rename


def _conv_norm(source: str, path: str) -> tuple[Rename, ...]:
    parts = dict(gamma="scale", beta="bias", mean="mean", var="var")
    return (
        Rename(f"{source}.conv", f"{path}/conv/kernel" if path else ""),
        *(
            Rename(f"{source}.bn.{a}", f"{path}/bn/{b}" if path else "")
            for a, b in parts.items()
        ),
    )


RENAMES = (
    *_conv_norm("stem", "stem"),
    *_conv_norm("block{i}.expand", "blocks/{i}/expand"),
    *(
        # A depthwise layer holds its kernel itself.
        line._replace(path=line.path.replace("/conv/kernel", "/kernel"))
        for line in _conv_norm("block{i}.depthwise", "blocks/{i}/depthwise")
    ),
    *_conv_norm("block{i}.project", "blocks/{i}/project"),
    # The 1280-channel layer behind block 16 is not part of the backbone.
    *_conv_norm("head", ""),
)
