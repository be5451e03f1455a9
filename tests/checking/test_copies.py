"""Rows with the same image or the same text."""

from raycrnn.checking.copies import conflicts_section, copies_section, same_images
from tests.checking.sets import labelled_set


def sections(*sets):
    same = same_images(sets)
    return copies_section(sets, same), conflicts_section(same)


def test_rows_with_other_images_cause_no_finding():
    copies, conflicts = sections(labelled_set(["a", "b"]), labelled_set(["a"], "eval"))
    assert not [*copies.findings, *conflicts.findings]
    assert copies.figures == {"distinct_texts": {"train": 2, "eval": 1}, "eval_rows_with_a_text_of_train": 1}


def test_copies_with_the_same_label_are_counted_beyond_the_first():
    copies, conflicts = sections(labelled_set(["a", "b", "a", "a"], images=["1", "2", "1", "1"]))
    [finding] = copies.findings
    assert (finding.kind, finding.rows, finding.data_set) == ("repeated image", 2, "train")
    assert [(example.line, example.detail) for example in finding.examples] == [
        (3, "as train.csv, line 1"),
        (4, "as train.csv, line 1"),
    ]
    assert not conflicts.findings


def test_an_image_in_both_sets_is_found_whatever_its_labels():
    train = labelled_set(["a", "b"], images=["1", "2"])
    evaluation = labelled_set(["a", "c", "d"], "eval", ["1", "2", "3"])
    copies, conflicts = sections(train, evaluation)
    [shared] = copies.findings
    assert (shared.kind, shared.rows, shared.data_set) == ("image in train and eval", 2, "eval")
    [different] = conflicts.findings
    assert (different.kind, different.rows) == ("different labels", 2)
    assert [(each.csv, each.line, each.detail) for each in different.examples] == [
        ("train.csv", 2, "b"),
        ("eval.csv", 2, "c"),
    ]


def test_labels_that_differ_only_in_their_form_are_the_same():
    copies, conflicts = sections(labelled_set(["é", "|e\u0301|"], images=["1", "1"]))
    assert [finding.kind for finding in copies.findings] == ["repeated image"]
    assert not conflicts.findings


def test_rows_that_are_left_out_are_no_copies():
    copies, conflicts = sections(labelled_set(["a", ""], images=["1", "1"]))
    assert not [*copies.findings, *conflicts.findings]
