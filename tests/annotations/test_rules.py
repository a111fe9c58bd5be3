"""One list of rules: whoever reads a file finds the same in it."""

import json

import fuzz
import hypothesis
import pytest
from broken_sets import CORPUS, change, content

from stan_jax.annotations import check, rules, youtube_vis
from stan_jax.errors import InputError
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.results import readers, submission

STRICT = {
    "load": lambda path: youtube_vis.load(path, "."),
    "require": check.require,
}


def score_truth(path):
    """Read every mask that takes part in a score."""
    truth = readers.true_tracks(path)
    for number in truth.tracks:
        list(truth.tracks[number])


LENIENT = {"score": score_truth, "submit": submission.read_challenge}


def refused(read, path):
    """The error of a reader, None where it reads the file."""
    try:
        read(path)
    except InputError as error:
        return error
    return None


def agree(path):
    """Assert that all readers of a file agree with what check finds in it."""
    report = check.check(path)
    errors = [f for f in report.findings if f.level == "error"]
    for name, read in STRICT.items():
        error = refused(read, path)
        assert (error is None) == (not errors), (name, error, errors)
        if error is not None and error.record:
            # But for the value: numbers and lists are read into other types.
            said = {
                f.rule.partition(", is ")[0] for f in errors if f.record == error.record
            }
            rule = error.rule.partition(", is ")[0].partition("; ")[0]
            assert rule in said, (error, errors)
    for name, read in LENIENT.items():
        error = refused(read, path)
        assert error is None or errors, (name, error)


@pytest.mark.parametrize("number", range(len(CORPUS)))
def test_no_broken_file_passes_one_reader_and_is_refused_by_another(tmp_path, number):
    root = content()
    CORPUS[number][-1](root)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(root))
    agree(path)


def each_odd_pair(examples, folder, judge):
    """Judge sound files after some edits; the same ones each time."""
    paths = folder / "instances.json", folder / "results.json"

    @fuzz.repeatable(examples)
    @hypothesis.given(fuzz.EDITS)
    def run(edits):
        root = fuzz.broken(edits)
        for path in paths:
            path.write_text(json.dumps(root.get(path.stem)))
        judge(*paths)

    run()


@pytest.mark.slow
def test_no_odd_file_passes_one_reader_and_is_refused_by_another(tmp_path):
    each_odd_pair(200, tmp_path, lambda path, results: agree(path))


def test_what_check_and_submit_pass_can_be_scored(tmp_path):
    def judge(path, results):
        if check.check(path).errors or submission.check(results, path).errors:
            return
        error = refused(lambda p: youtube_vis_ap.evaluate_files(p, results), path)
        assert error is None, error

    each_odd_pair(100, tmp_path, judge)


RESULTS = [
    ("video_id", "1"),
    ("video_id", 2**60),
    ("video_id", 9),
    ("category_id", "1"),
    ("category_id", 2**60),
    ("category_id", 9),
    ("score", "1"),
    ("segmentations", None),
    ("segmentations", [None]),
    ("segmentations", [[[1, 1, 4, 1, 4, 5]], None, None]),
]


def test_every_rule_is_broken_by_some_file(tmp_path, monkeypatch):
    broken = set()

    def watched(number, rule):
        def test(row, known):
            if (text := rule.test(row, known)) is not None:
                broken.add(number)
            return text

        return rule._replace(test=test)

    numbered = [watched(i, rule) for i, rule in enumerate(rules.RULES)]
    for record, lenient in rules._OF:
        if not lenient:
            mine = [rule for rule in numbered if rule.record == record]
            monkeypatch.setitem(rules._OF, (record, False), mine)
    path, results = tmp_path / "instances.json", tmp_path / "results.json"
    large = [
        change(key, 0, field, value=2**60)
        for key, field in (
            ("videos", "id"),
            ("categories", "id"),
            ("annotations", "video_id"),
            ("annotations", "category_id"),
        )
    ]
    for edit in [*(edit for *_, edit in CORPUS), *large]:
        root = content()
        edit(root)
        path.write_text(json.dumps(root))
        check.check(path)
    path.write_text(json.dumps(META))
    assert refused(submission.read_challenge, path)
    path.write_text(json.dumps(fuzz.sound()["instances"]))
    rows = fuzz.sound()["results"]
    given = [row | {k: v} for row in rows for k, v in RESULTS]
    results.write_text(json.dumps([*given, {"image_id": 1}]))
    submission.check(results, path)
    never = [rule for i, rule in enumerate(rules.RULES) if i not in broken]
    assert not [f"{rule.record}: {rule.level}: {rule.cure}" for rule in never]


RESULT = {"video_id": 1, "category_id": 1, "score": 1.0, "segmentations": [None]}
STILL = {"image_id": 1, "category_id": 1, "score": 1.0, "bbox": [1, 1, 2, 2]}
META = {"videos": {"a": {"objects": {"1": {"category": "cat"}}}}}
BY_IMAGE = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 5]]}
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


@pytest.mark.parametrize(
    ("content", "as_annotations", "as_results"),
    [
        ([RESULT], "these are results: are the two files swapped", None),
        ([STILL], "results of COCO, of images", "is a result of COCO, of one image"),
        (
            META,
            "is the meta.json of YouTube-VOS",
            "annotations, and the two files swap",
        ),
        (BY_IMAGE, "annotations by image|is COCO", "the two files swapped"),
    ],
)
def test_foreign_files_are_named_by_what_they_are(
    tmp_path, content, as_annotations, as_results
):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    sound = tmp_path / "instances.json"
    sound.write_text(json.dumps(fuzz.sound()["instances"]))
    for read in (STRICT["load"], STRICT["require"], score_truth):
        with pytest.raises(InputError, match=as_annotations):
            read(path)
    if as_results:
        with pytest.raises(InputError, match=as_results):
            youtube_vis_ap.evaluate_files(sound, path)
        assert any(as_results in text for text in submission.check(path, sound).errors)
