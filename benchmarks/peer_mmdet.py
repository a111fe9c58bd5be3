"""mmdet's MaskTrack R-CNN as a subject of `compare.py`; needs torch and mmdet 3.3.

    python benchmarks/compare.py --peer "mmdet=python benchmarks/peer_mmdet.py"

R50-FPN as configured for YouTube-VIS 2019, random weights, frames of 640 x 360.
"""

import itertools
import sys
from pathlib import Path

import turns

DETECTIONS = {"frame10": 10, "frame100": 100, "train": 0}
FOLDER = Path(".mim/configs/masktrack_rcnn")
FILE = "masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py"


def build(detections):
    import mmdet
    import torch
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    torch.manual_seed(0)
    register_all_modules(init_default_scope=True)
    c = Config.fromfile(Path(mmdet.__file__).parent / FOLDER / FILE).model
    c.detector.init_cfg = c.detector.backbone.init_cfg = None  # weights to download
    if detections:
        c.detector.test_cfg.rcnn.update(max_per_img=detections, score_thr=0.0)
    model = MODELS.build(c)
    model.init_weights()
    return model


def sample(key, reference, objects):
    """A clip's annotations: of each frame its boxes and masks, or none to predict."""
    import torch
    from mmdet.structures import DetDataSample, TrackDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    clip, frames = TrackDataSample(), []
    for t in (*key, *reference):
        frame = DetDataSample()
        about = dict(
            img_shape=turns.SIZE_HW,
            ori_shape=turns.SIZE_HW,
            scale_factor=(1.0, 1.0),
            flip=False,
        )
        frame.set_metainfo(about | dict(frame_id=t, is_key_frame=t in key))
        if objects:
            boxes, masks = (x[t] for x in objects)
            frame.gt_instances = InstanceData(
                bboxes=torch.from_numpy(boxes),
                labels=torch.arange(len(boxes)),
                instances_ids=torch.arange(len(boxes)) + 1,
                masks=BitmapMasks(list(masks.astype("uint8")), *turns.SIZE_HW),
            )
        frames.append(frame)
    clip.video_data_samples = frames
    second = list(range(len(key), len(frames)))
    clip.set_metainfo(
        dict(
            key_frames_inds=[0], ref_frames_inds=second, frame_id=key[0], video_length=9
        )
    )
    return clip


def main(work):
    if work not in DETECTIONS:
        sys.exit(f"mmdet has nothing to say of {work}")
    import torch

    model = build(DETECTIONS[work])
    pictures, *objects = turns.frames(8)
    planes = torch.from_numpy(pictures[..., ::-1].transpose(0, 3, 1, 2).copy())

    def given(frames, clip, training):
        data = dict(inputs=[planes[frames]], data_samples=[clip])
        data = model.data_preprocessor(data, training)
        return data["inputs"], data["data_samples"]

    if work == "train":
        learns = [p for p in model.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(learns, lr=0.00125, momentum=0.9, weight_decay=1e-4)
        model.train()

        def call():
            loss, _ = model.parse_losses(
                model.loss(*given([0, 1], sample([0], [1], objects), True))
            )
            sgd.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learns, 35)
            sgd.step()

    else:
        model.eval()
        numbers = itertools.cycle(range(8))

        def call():
            t = next(numbers)
            with torch.inference_mode():
                frame = given([t], sample([t], [], None), False)
                (found,) = model.predict(*frame, rescale=True)
            number = len(found[0].pred_track_instances.masks)
            # Its tracker leaves out some of the detections.
            assert DETECTIONS[work] / 2 < number <= DETECTIONS[work], number

    turns.serve(call)


if __name__ == "__main__":
    main(sys.argv[1])
