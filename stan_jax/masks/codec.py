"""temporary"""

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict


def encode(mask):
    code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


def decode(rle):
    return coco_mask.decode(
        {"size": rle["size"], "counts": rle["counts"].encode()}
    ).astype(bool)


def area(rle):
    return int(coco_mask.area({"size": rle["size"], "counts": rle["counts"].encode()}))
