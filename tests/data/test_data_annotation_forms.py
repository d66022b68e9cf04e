"""Annotations in the form their authors publish them; empty files stand for the videos."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from videokd.data.annotations import (
    Annotations,
    ClassFile,
    read_class_file,
    read_hmdb51,
    read_kinetics,
    read_list,
    read_lists,
    read_mmaction2,
    read_something,
    read_something_lists,
    read_ucf101,
)
from videokd.errors import UserError
from videokd.types import ClassNames


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    return folder


def touch(root: Path, *names: str) -> None:
    made: set[str] = set()
    for name in names:
        folder = os.path.dirname(name)  # noqa: PTH120  (thousands of names)
        if folder not in made:
            (root / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        (root / name).touch()


def write(folder: Path, **texts: str) -> None:
    """`a__txt="..."` writes `a.txt`."""
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_bytes(text.encode())


def summary(found: Annotations, root: Path) -> list[tuple[str, str, str]]:
    return [
        (v.path.relative_to(root).as_posix(), ";".join(v.label_names), v.split)
        for v in found.videos
    ]


# UCF101

ARCHERY = [f"Archery/v_Archery_g0{g}_c01.avi" for g in (1, 2, 3, 4)]
PUSHUPS = "HandstandPushups/v_HandStandPushups_g01_c01.avi"
UCF101 = {
    "classInd__txt": "1 Archery\n2 HandstandPushups\n",
    "trainlist01__txt": f"{ARCHERY[1]} 1\n{ARCHERY[2]} 1\n{ARCHERY[3]} 1\n",
    "testlist01__txt": f"{ARCHERY[0]}\n{PUSHUPS}\n",
    "trainlist02__txt": f"{ARCHERY[0]} 1\n{ARCHERY[2]} 1\n{ARCHERY[3]} 1\n{PUSHUPS} 2\n",
    "testlist02__txt": f"{ARCHERY[1]}\n",
    "trainlist03__txt": f"{ARCHERY[0]} 1\n{ARCHERY[1]} 1\n{ARCHERY[3]} 1\n{PUSHUPS} 2\n",
    "testlist03__txt": f"{ARCHERY[2]}\n",
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_ucf101(videos: Path, files: Path, ending: str) -> None:
    touch(videos, *ARCHERY, PUSHUPS)
    write(files, **{name: text.replace("\n", ending) for name, text in UCF101.items()})
    found = read_ucf101(videos, files)
    assert summary(found, videos) == [
        (ARCHERY[0], "Archery", "test1;train2;train3"),
        (PUSHUPS, "HandstandPushups", "test1;train2;train3"),
        (ARCHERY[1], "Archery", "train1;test2;train3"),
        (ARCHERY[2], "Archery", "train1;train2;test3"),
        (ARCHERY[3], "Archery", "train1;train2;train3"),
    ]
    assert [v.group for v in found.videos[:3]] == [
        "Archery_g01", "HandStandPushups_g01", "Archery_g02",
    ]  # fmt: skip
    assert found.classes == ClassNames(["Archery", "HandstandPushups"])
    assert found.absent == ()


def test_ucf101_as_folders_of_frames(videos: Path, files: Path) -> None:
    for name in (*ARCHERY, PUSHUPS):
        touch(videos, f"{name.removesuffix('.avi')}/img_00001.jpg")
    write(files, **UCF101)
    found = read_ucf101(videos, files, frames=True)
    assert found.videos[0].path == videos / "Archery" / "v_Archery_g01_c01"


def test_ucf101_with_absent_videos(videos: Path, files: Path) -> None:
    touch(videos, *ARCHERY[:3])
    write(files, **UCF101)
    with pytest.raises(UserError, match=r"testlist01\.txt:2: no such .*c01\.avi \(and 1 more are"):
        read_ucf101(videos, files)
    found = read_ucf101(videos, files, allow_absent=True)
    assert len(found.videos) == 3
    assert [(a.where, a.video, a.split) for a in found.absent] == [
        (f"{files}/testlist01.txt:2", f"{videos}/{PUSHUPS}", "test1;train2;train3"),
        (f"{files}/trainlist01.txt:3", f"{videos}/{ARCHERY[3]}", "train1;train2;train3"),
    ]
    with pytest.raises(UserError, match=r"none of the 5 videos is there, so give the folder that"):
        read_ucf101(files, files, allow_absent=True)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("trainlist01__txt", f"{ARCHERY[0]} 2\n", r"trainlist01\.txt:1: label 2 is not the class"),
        ("trainlist01__txt", f"{ARCHERY[0]} 0\n", r"trainlist01\.txt:1: label 0 is outside the cl"),
        ("testlist02__txt", "Bow/v_Bow_g01_c01.avi\n", r"testlist02\.txt:1: .* with a class of cl"),
        ("testlist02__txt", "Archery/x.avi\n", r"testlist02\.txt:1: 'Archery/x\.avi' is not of"),
        (
            "testlist01__txt",
            f"\n{ARCHERY[1]}\n",
            r"trainlist01\.txt:1: .*g02_c01\.avi stands already in .*testlist01\.txt:2, as test1 "
            "and here as train1",
        ),
    ],
)
def test_bad_ucf101(videos: Path, files: Path, name: str, text: str, why: str) -> None:
    touch(videos, *ARCHERY, PUSHUPS)
    write(files, **(UCF101 | {name: text}))
    with pytest.raises(UserError, match=why):
        read_ucf101(videos, files)


def test_ucf101_needs_both_lists_of_a_fold(videos: Path, files: Path) -> None:
    with pytest.raises(UserError, match=r"no classInd\.txt in it; give the folder of UCF101"):
        read_ucf101(videos, files)
    write(files, classInd__txt="1 Archery\n")
    with pytest.raises(UserError, match=r"no trainlist01\.txt in it; give the folder"):
        read_ucf101(videos, files)
    write(files, trainlist02__txt=f"{ARCHERY[0]} 1\n")
    with pytest.raises(UserError, match=r"trainlist02\.txt is there, but testlist02\.txt is miss"):
        read_ucf101(videos, files)
    touch(videos, *ARCHERY[:2])
    write(files, testlist02__txt=f"{ARCHERY[1]}\n")
    found = read_ucf101(videos, files)  # one fold alone is no fault
    assert Counter(v.split for v in found.videos) == {"train2": 1, "test2": 1}


def test_the_published_ucf101(shared_data: Path, videos: Path) -> None:
    folder = shared_data / "annotations" / "ucf101"
    lists = sorted(folder.glob("t*list0?.txt"))
    touch(videos, *{line.split()[0] for path in lists for line in path.read_text().splitlines()})
    found = read_ucf101(videos, folder)
    assert Counter(v.split for v in found.videos) == {
        "test1;train2;train3": 3783,
        "train1;test2;train3": 3734,
        "train1;train2;test3": 3696,
        "train1;train2;train3": 2107,
    }
    assert found.classes is not None
    assert (len(found.classes), found.classes[36]) == (101, "HandstandPushups")
    sides: dict[tuple[str, int], set[str]] = {}
    for video in found.videos:
        for fold, split in enumerate(video.split.split(";")):
            sides.setdefault((video.group, fold), set()).add(split)
    assert len(sides) == 3 * 101 * 25
    assert all(len(side) == 1 for side in sides.values())


# HMDB51

HMDB51_NAMES = [
    "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
    "(HQ)_Rock!_-_Live_[1080]&more;_clap_u_cm_np1_fr_med_1.avi",
    "We_clap_shake_hands_clap_h_nm_np2_le_goo_2.avi",
]


def hmdb51_texts() -> dict[str, str]:
    sides = {1: "120", 2: "210", 3: "011"}
    texts = {
        f"clap_test_split{fold}__txt": "".join(
            f"{name} {side} \n" for name, side in zip(HMDB51_NAMES, numbers, strict=True)
        )
        for fold, numbers in sides.items()
    }
    for fold in sides:
        texts[f"shake_hands_test_split{fold}__txt"] = "A_shake_hands_f_nm_np2_ri_med_3.avi 0 \n"
    return texts


def test_hmdb51(videos: Path, files: Path) -> None:
    write(files, class_list__txt="clap  \nshake_hands\n", **hmdb51_texts())
    touch(videos, *(f"clap/{name}" for name in HMDB51_NAMES))
    touch(videos, "shake_hands/A_shake_hands_f_nm_np2_ri_med_3.avi")
    found = read_hmdb51(videos, files)
    assert summary(found, videos) == [
        (f"clap/{HMDB51_NAMES[0]}", "clap", "train1;test2"),
        (f"clap/{HMDB51_NAMES[1]}", "clap", "test1;train2;train3"),
        (f"clap/{HMDB51_NAMES[2]}", "clap", "train3"),
        ("shake_hands/A_shake_hands_f_nm_np2_ri_med_3.avi", "shake_hands", ""),
    ]
    assert [v.group for v in found.videos] == [
        "#20_Rhythm_clap",
        "(HQ)_Rock!_-_Live_[1080]&more;_clap",
        "We_clap_shake_hands_clap",
        "A_shake_hands",
    ]
    assert found.classes == ClassNames(["clap", "shake_hands"])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("clap_test_split2__txt", "a.avi 3\n", r"clap_test_split2\.txt:1: 'a\.avi 3' is not of"),
        ("clap_test_split2__txt", "a.avi\n", r"clap_test_split2\.txt:1: 'a\.avi' is not of the"),
        ("run_test_split1__txt", "a.avi 1\n", r"run_test_split2\.txt is missing"),
        ("clap_test_split1__txt", "a.avi 1\na.avi 2\n", r"split1\.txt:2: .* already in line 1, as"),
    ],
)
def test_bad_hmdb51(videos: Path, files: Path, name: str, text: str, why: str) -> None:
    write(files, **(hmdb51_texts() | {name: text}))
    with pytest.raises(UserError, match=why):
        read_hmdb51(videos, files)
    with pytest.raises(UserError, match="give the folder of HMDB51's split files"):
        read_hmdb51(videos, videos)


def test_the_published_hmdb51(shared_data: Path, videos: Path) -> None:
    folder = shared_data / "annotations" / "hmdb51"
    for path in folder.glob("*_test_split1.txt"):
        name = path.name.removesuffix("_test_split1.txt")
        touch(videos, *(f"{name}/{line.split()[0]}" for line in path.read_text().splitlines()))
    found = read_hmdb51(videos, folder)
    assert found.classes is not None
    assert (len(found.videos), len(found.classes)) == (6766, 51)
    counts = Counter(split for v in found.videos for split in v.split.split(";") if split)
    assert counts == {f"train{k}": 3570 for k in (1, 2, 3)} | {f"test{k}": 1530 for k in (1, 2, 3)}
    sides: dict[tuple[str, str], set[str]] = {}
    for video in found.videos:
        assert video.group
        for split in filter(None, video.split.split(";")):
            sides.setdefault((video.group, split[-1]), set()).add(split)
    assert all(len(side) == 1 for side in sides.values())


# Kinetics

KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    '"massaging person\'s head",-0wR5jVB-WP,417,427,val,0\n'
    '"petting animal (not cat)",3caPS4FHFF8,6,16.0,train,1\n'
    "zumba,#NAME?,0,10,validate,0\n"
)


@pytest.mark.parametrize(
    "names",
    [
        (
            "massaging person's head/-0wR5jVB-WP_000417_000427.mp4",
            "petting animal (not cat)/3caPS4FHFF8_000006_000016.mp4",
        ),
        (
            "val/massaging_person's_head/-0wR5jVB-WP_000417_000427.mkv",
            "train/petting_animal_(not_cat)/3caPS4FHFF8_000006_000016.webm",
        ),
        ("-0wR5jVB-WP_000417_000427.mp4", "3caPS4FHFF8_000006_000016.mp4"),
        ("-0wR5jVB-WP.mp4", "3caPS4FHFF8.mp4"),
        ("k400/val/-0wR5jVB-WP.mp4", "k400/train/3caPS4FHFF8.mp4"),
    ],
)
def test_kinetics_layouts(videos: Path, files: Path, names: tuple[str, str]) -> None:
    touch(videos, *names, "other_000001_000011.mp4")
    write(files, train__csv=KINETICS)
    found = read_kinetics(videos, files / "train.csv")
    assert summary(found, videos) == [
        (names[0], "massaging person's head", "val"),
        (names[1], "petting animal (not cat)", "train"),
    ]
    assert found.classes is not None
    assert list(found.classes) == ["massaging person's head", "petting animal (not cat)", "zumba"]
    assert [(a.where, a.video, a.label_names, a.split, a.reason) for a in found.absent] == [
        (f"{files}/train.csv:4", "#NAME?_000000_000010", ("zumba",), "val", "no such file")
    ]


def test_kinetics_as_folders_of_frames(videos: Path, files: Path) -> None:
    touch(videos, "petting_animal_not_cat/3caPS4FHFF8_6/img_00001.jpg")
    write(files, train__csv=KINETICS)
    found = read_kinetics(videos, files, frames=True)
    assert [v.path.name for v in found.videos] == ["3caPS4FHFF8_6"]


def test_kinetics_without_labels_beside_labelled(videos: Path, files: Path) -> None:
    touch(videos, "3caPS4FHFF8.mp4", "--6bJUbfpnQ_000017_000027.mp4")
    write(
        files,
        train__csv=KINETICS,
        test__csv="youtube_id,time_start,time_end,split\r\n--6bJUbfpnQ,17,27,test\r\n",
    )
    assert summary(read_kinetics(videos, files), videos) == [
        ("--6bJUbfpnQ_000017_000027.mp4", "", "test"),
        ("3caPS4FHFF8.mp4", "petting animal (not cat)", "train"),
    ]
    alone = read_kinetics(videos, files / "test.csv")
    assert (len(alone.videos), alone.classes) == (1, None)


def test_kinetics_takes_the_file_of_the_rows_class_and_split(videos: Path, files: Path) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    write(files, a__csv=head + "yoga,AAAAAAAAAAA,1,11,train\nzumba,AAAAAAAAAAA,1,11,train\n")
    stem = "AAAAAAAAAAA_000001_000011.mp4"
    touch(videos, f"zumba/{stem}", f"yoga/{stem}")
    found = read_kinetics(videos, files)
    assert summary(found, videos) == [
        (f"yoga/{stem}", "yoga", "train"),
        (f"zumba/{stem}", "zumba", "train"),
    ]
    touch(videos, f"val/yoga/{stem}", f"videos_train/yoga/{stem}")
    (videos / "yoga" / stem).unlink()
    assert summary(read_kinetics(videos, files), videos)[0][0] == f"videos_train/yoga/{stem}"
    (videos / "zumba" / stem).unlink()  # yoga's files are not zumba's
    assert [a.label_names for a in read_kinetics(videos, files).absent] == [("zumba",)]


def test_kinetics_files_that_could_be_two_segments_are_listed(videos: Path, files: Path) -> None:
    write(
        files,
        a__csv="label,youtube_id,time_start,time_end,split\nyoga,AAAAAAAAAAA,1,11,train\n"
        "yoga,AAAAAAAAAAA,30,40,train\nyoga,BBBBBBBBBBB,1,11,train\nyoga,CCCCCCCCCCC,1,11,train\n",
    )
    touch(videos, "AAAAAAAAAAA.mp4", "x/BBBBBBBBBBB.mp4", "y/BBBBBBBBBBB.mp4", "CCCCCCCCCCC.mp4")
    found = read_kinetics(videos, files)
    assert [v.path.name for v in found.videos] == ["CCCCCCCCCCC.mp4"]
    assert [a.reason for a in found.absent] == [
        f"{videos}/AAAAAAAAAAA.mp4 could be this segment or that of another row",
        f"{videos}/AAAAAAAAAAA.mp4 could be this segment or that of another row",
        f"several files could be it: {videos}/x/BBBBBBBBBBB.mp4, {videos}/y/BBBBBBBBBBB.mp4",
    ]


def test_bad_kinetics(videos: Path, files: Path) -> None:
    with pytest.raises(UserError, match="no CSV file in it; give Kinetics"):
        read_kinetics(videos, files)
    write(files, a__csv=KINETICS)
    with pytest.raises(UserError, match=r"a\.csv:2: no such file: .*none of the 3 videos is there"):
        read_kinetics(videos, files)
    write(files, a__csv="label,youtube_id,time_start,time_end,split\nyoga,x,one,2,val\n")
    with pytest.raises(UserError, match=r"a\.csv:2: time_start is 'one'; it must be a number of"):
        read_kinetics(videos, files)
    write(files, a__csv="a.mp4 0\n")
    with pytest.raises(UserError, match=r"a\.csv:1: column 'youtube_id' is missing"):
        read_kinetics(videos, files)
    write(files, a__csv="label,youtube_id,time_start,time_end,split\n")
    with pytest.raises(UserError, match="annotations: no rows in it"):
        read_kinetics(videos, files)


def test_the_published_kinetics400(shared_data: Path, videos: Path) -> None:
    path = shared_data / "annotations" / "kinetics400" / "kinetics-400_val.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    touch(videos, *(f"{row['label']}/{row['youtube_id']}.mp4" for row in rows[:100]))
    found = read_kinetics(videos, path)
    assert (len(found.videos), len(found.absent)) == (100, 19806)
    assert found.classes is not None
    assert len(found.classes) == 400
    # mmaction2 sorts the names with `_` for spaces, and numbers the classes alike.
    assert list(found.classes) == sorted(found.classes, key=lambda name: name.replace(" ", "_"))


# Something-Something v2

LABELS = {"Holding something": "0", "Pushing something so that it falls off": "1"}
TRAIN = [
    {
        "id": "78687",
        "label": "holding potato",
        "template": "Holding [something]",
        "placeholders": ["potato"],
    }
]
VALIDATION = [{"id": "9", "template": "Pushing [something] so that it [falls off]"}]


def something_files(folder: Path, prefix: str) -> None:
    for name, data in (
        ("labels", LABELS),
        ("train", TRAIN),
        ("validation", VALIDATION),
        ("test", [{"id": "1420"}]),
    ):
        (folder / f"{prefix}{name}.json").write_text(json.dumps(data))


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_something_v2(videos: Path, files: Path, prefix: str) -> None:
    something_files(files, prefix)
    touch(videos, "78687.webm", "sub/9.webm", "1420.mp4")
    found = read_something(videos, files)
    assert summary(found, videos) == [
        ("78687.webm", "Holding something", "train"),
        ("sub/9.webm", "Pushing something so that it falls off", "val"),
        ("1420.mp4", "", "test"),
    ]
    assert found.classes == ClassNames(list(LABELS))
    write(files, **{"test-answers__csv": "1420;Holding something\n"})
    assert read_something(videos, files).videos[2].label_names == ("Holding something",)


def test_something_v2_as_folders_of_frames(videos: Path, files: Path) -> None:
    something_files(files, "")
    touch(videos, "9/img_00001.jpg", "78687/img_00001.jpg", "1420/img_00001.jpg")
    found = read_something(videos, files, frames=True)
    assert [v.path for v in found.videos] == [videos / name for name in ("78687", "9", "1420")]


def test_absent_something_v2(videos: Path, files: Path) -> None:
    something_files(files, "")
    touch(videos, "9.webm")
    with pytest.raises(UserError, match=r"train\.json:1: no such file: .*78687 \(and 1 more are"):
        read_something(videos, files)
    found = read_something(videos, files, allow_absent=True)
    assert (len(found.videos), len(found.absent)) == (1, 2)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("train", [{"id": 1, "template": "Holding [nothing]"}], r"train\.json:1: .*did you mean"),
        ("train", [{"template": "x"}], r"train\.json:1: this item of the list has no id"),
        ("train", {"id": "1"}, r"train\.json: expected a list of videos"),
        ("labels", {"a": "0", "b": "2"}, r"labels\.json: no class has the number 1"),
        ("labels", "text", r"labels\.json: expected \{\"class name\": number"),
        ("x-labels", LABELS, "2 files named"),
    ],
)
def test_bad_something_v2(videos: Path, files: Path, name: str, data: object, why: str) -> None:
    something_files(files, "")
    (files / f"{name}.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=why):
        read_something(videos, files)


def test_broken_json_is_named_by_line(videos: Path, files: Path) -> None:
    something_files(files, "")
    write(files, train__json="[\n{]")
    with pytest.raises(UserError, match=r"train\.json:2: not readable as JSON"):
        read_something(videos, files)


def test_processed_something_lists(videos: Path, files: Path) -> None:
    touch(videos, "74225.webm", "74226.webm", "20bn/78687/img_00001.jpg", "9/img_00001.jpg")
    write(files, a__txt="74225 0 57 1\n74226 1 57 0\n", b__txt="78687 34 1\n9 2 0\n")
    (files / "labels.json").write_text(json.dumps(LABELS))
    classes = read_class_file(files / "labels.json")
    assert classes == ClassFile(ClassNames(list(LABELS)))
    found = read_something_lists(videos, {"train": files / "a.txt"}, classes)
    assert [(v.path.name, v.label_names[0], v.num_frames) for v in found.videos] == [
        ("74225.webm", "Pushing something so that it falls off", 58),
        ("74226.webm", "Holding something", 57),
    ]
    found = read_something_lists(videos, {"val": files / "b.txt"}, frames=True)
    assert [(v.path, v.label_names, v.split, v.num_frames) for v in found.videos] == [
        (videos / "20bn" / "78687", ("1",), "val", 34),
        (videos / "9", ("0",), "val", 2),
    ]
    assert found.classes is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 5 57 0\n", r"a\.txt:1: frames 5 to 57 are a part of a video; an index holds whole"),
        ("1 0 1 2 3\n", r"a\.txt:1: '1 0 1 2 3' is not of the form `id start end label`"),
        ("1\n", r"a\.txt:1: '1' is not of the form"),
        ("1 ten 0\n", r"a\.txt:1: '1 ten 0' is not of the form"),
        ("1 10 2\n", r"a\.txt:1: label 2 is outside the classes 0\.\.1"),
        ("2 10 1\n", r"a\.txt:1: .*x/2\.webm and .*y/2\.webm could both be video 2"),
    ],
)
def test_bad_processed_lists(videos: Path, files: Path, text: str, why: str) -> None:
    touch(videos, "1.webm", "x/2.webm", "y/2.webm")
    write(files, a__txt=text)
    with pytest.raises(UserError, match=why):
        read_something_lists(
            videos, {"train": files / "a.txt"}, ClassFile(ClassNames(["left", "right"]))
        )


def test_the_processed_something_list(shared_data: Path, videos: Path) -> None:
    path = shared_data / "annotations" / "ssv2_processed" / "validation_first2000.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    touch(videos, *(f"{row[0]}.webm" for row in rows))
    found = read_something_lists(videos, {"val": path})
    assert [(v.path.stem, v.label_names[0], v.num_frames) for v in found.videos] == [
        (video_id, label, int(end) + 1) for video_id, _, end, label in rows
    ]


# mmaction2


def test_mmaction2_lists(videos: Path, files: Path) -> None:
    touch(videos, "some/a b 1.mp4", "some/c.mp4", "f/d1/img_00001.jpg", "f/d2/img_00001.jpg")
    write(
        files,
        videos__txt="some/a b 1.mp4 2\nsome/c.mp4\n",
        frames__txt="f/d1 163 1\nf/d2 122\n",
        many__txt="some/a b 1.mp4 0 3\nsome/c.mp4 2\nf/d1 12 3 0\n",
        commas__txt="some/a b 1.mp4, 2\n",
    )
    classes = ClassFile(ClassNames(["a", "b", "c", "d"]))

    def read(name: str, *, delimiter: str | None = None, many: bool = False) -> list[object]:
        found = read_mmaction2(
            videos, {"val": files / name}, classes, multi_label=many, delimiter=delimiter
        )
        assert found.classes == classes.names
        return [
            (v.path.relative_to(videos).as_posix(), v.label_names, v.num_frames)
            for v in found.videos
        ]

    assert read("videos.txt") == [("some/a b 1.mp4", ("c",), None), ("some/c.mp4", (), None)]
    assert read("frames.txt") == [("f/d1", ("b",), 163), ("f/d2", (), 122)]
    assert read("many.txt", many=True) == [
        ("some/a b 1.mp4", ("a", "d"), None),
        ("some/c.mp4", ("c",), None),
        ("f/d1", ("d", "a"), 12),
    ]
    assert read("commas.txt", delimiter=",") == [("some/a b 1.mp4", ("c",), None)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("f/d1 12 163 3\n", r"l\.txt:1: .*`folder offset num_frames label` is a part of a folder"),
        ("a.mp4 0 1\n", r"l\.txt:1: 'a\.mp4 0 1' has several labels; say --multi-label if it is"),
        ("a.mp4 -1\n", r"l\.txt:1: label -1 is below 0; leave it out for no label"),
        ("f/d1\n", r"l\.txt:1: 'f/d1' is neither `video\.mp4 label` nor `folder num_frames"),
        ("a.mp4 4\n", r"l\.txt:1: label 4 is outside the classes 0\.\.1"),
        ("a.mp4 0\na.mp4 1\n", r"l\.txt:2: .*a\.mp4 stands already in line 1"),
        ("a.mp4 0\nb.mp4 1\n", r"l\.txt:2: no such file: .*b\.mp4"),
        ("\n", r"l\.txt: no lines in it"),
    ],
)
def test_bad_mmaction2_lists(videos: Path, files: Path, text: str, why: str) -> None:
    touch(videos, "a.mp4", "f/d1/img_00001.jpg")
    write(files, l__txt=text)
    with pytest.raises(UserError, match=why):
        read_mmaction2(videos, {"": files / "l.txt"}, ClassFile(ClassNames(["a", "b"])))


def test_a_label_twice(videos: Path, files: Path) -> None:
    write(files, l__txt="a.mp4 1 1\n")
    with pytest.raises(UserError, match=r"l\.txt:1: 'a\.mp4 1 1' has a label twice"):
        read_mmaction2(videos, {"": files / "l.txt"}, multi_label=True)


def test_the_lists_of_mmaction2(shared_data: Path, videos: Path, files: Path) -> None:
    """Its own test lists name one video on two lines, so each is read without the second."""
    touch(videos, "test.mp4", "imgs/img_00001.jpg")
    read: dict[str, object] = {}
    for name in ("video_test_list", "video_test_list_multi_label", "rawframe_test_list"):
        source = shared_data / "annotations" / "mmaction2_lists" / f"{name}.txt"
        many = name.endswith("multi_label")
        with pytest.raises(UserError, match=r"\.txt:2: .* stands already in line 1"):
            read_mmaction2(videos, {"": source}, multi_label=many)
        (files / "l.txt").write_text(source.read_text().splitlines()[0])
        (video,) = read_mmaction2(videos, {"": files / "l.txt"}, multi_label=many).videos
        read[name] = (video.path.name, video.label_names, video.num_frames)
    assert read == {
        "video_test_list": ("test.mp4", ("0",), None),
        "video_test_list_multi_label": ("test.mp4", ("0", "3"), None),
        "rawframe_test_list": ("imgs", ("127",), 5),
    }


# Lists of several folds


def test_lists_of_folds_are_joined(videos: Path, files: Path) -> None:
    touch(videos, "a.mp4", "b.mp4", "c d.mp4")
    write(files, x__txt="a.mp4 left\nb.mp4 right\n", y__txt="c d.mp4\tleft\n")
    x, y = files / "x.txt", files / "y.txt"
    lists = {"train2": x, "test2": y, "train1": y, "test01": x}
    assert summary(read_lists(lists, videos), videos) == [
        ("a.mp4", "left", "test01;train2"),
        ("b.mp4", "right", "test01;train2"),
        ("c d.mp4", "left", "train1;test2"),
    ]
    for lists, why in (
        ({"train": x, "test": x}, r"x\.txt:1: .*already in line 1, as train and here as test"),
        ({"train1": x, "test1": x}, r"already in line 1, as train1 and here as test1"),
        ({"train1": x, "test": x}, r"already in line 1, as train1 and here as test"),
    ):
        with pytest.raises(UserError, match=why):
            read_lists(lists, videos)
    write(files, z__txt="a.mp4 right\n")
    with pytest.raises(UserError, match=r"z\.txt:1: .*a\.mp4 has another label than in .*x\.txt:1"):
        read_lists({"train1": x, "test2": files / "z.txt"}, videos)


def test_a_list_with_a_delimiter(videos: Path, files: Path) -> None:
    touch(videos, "a b.mp4")
    write(files, l__csv="a b.mp4,pour water\n")
    found = read_lists({"val": files / "l.csv"}, videos, delimiter=",")
    assert summary(found, videos) == [("a b.mp4", "pour water", "val")]
    with pytest.raises(UserError, match=r"has no label; each line is a path, ';' and a label"):
        read_lists({"val": files / "l.csv"}, videos, delimiter=";")
    with pytest.raises(UserError, match=r"no such file: .*a b\.mp4,pour$"):
        read_list(files / "l.csv", videos)
