# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""Retrieval, multiple choice and questions by one, two and three processes, of 1, 2, 7 and 64 videos."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from transformers.utils import flatten_dict

from svitt import SViTTForVideoQuestionAnswering, SViTTForVideoTextRetrieval
from svitt.data.annotations import choice_set, load_captions, load_choices, load_questions, retrieval_set
from svitt.data.loaders import BadVideoReport, ProcessingArguments
from svitt.evaluation.answering import AnsweringArguments, answer_metrics, answer_split, question_set
from svitt.evaluation.clips import VideoReader
from svitt.evaluation.retrieval import RetrievalArguments, metrics_of, score_split
from svitt.processing_svitt import SViTTProcessor

SIZES = (1, 2, 7, 64)
ANSWERS = ["red", "a red circle", "blue", "left and then up", "up", "green square", "moves"]
pytestmark = pytest.mark.slow


def write_annotations(demo, folder):
    """Captions, options and questions of so many videos: of copies beyond the demo's, but each with its own words."""
    rows = list(chain(*(json.loads((demo / f"data/{split}.json").read_text()) for split in ("train", "val", "test"))))
    links = folder / "videos"
    links.mkdir()
    for size in SIZES:
        captions, choices, questions = [], [], []
        for number in range(size):
            name = f"{number}.mp4"
            if not (links / name).exists():
                os.link(demo / "data/videos" / rows[number % len(rows)]["video"], links / name)
            words = rows[(7 * number) % len(rows)]["caption"]
            captions.append({"video": name, "caption": [words, f"{'up ' * (number % 5)}then left"][: 1 + number % 2]})
            options = [words, *ANSWERS[: 1 + number % 4]]
            choices.append({"video": name, "caption": options, "answer": number % len(options)})
            answers = ANSWERS[number % 3], "red"
            questions += [{"video": name, "question": words, "answer": answer} for answer in answers[: 1 + number % 2]]
        for kind, rows_of_kind in (("captions", captions), ("choices", choices), ("questions", questions)):
            (folder / f"{kind}_{size}.json").write_text(json.dumps(rows_of_kind))


def evaluate_all(demo, folder):
    """What the scripts do with a split, for each size; every process saves what it has."""
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    demo, folder, accelerator = Path(demo), Path(folder), Accelerator(cpu=True)
    processor, processing = SViTTProcessor.from_pretrained(demo / "model"), ProcessingArguments()
    retriever = SViTTForVideoTextRetrieval.from_pretrained(demo / "model")
    torch.manual_seed(0)
    answerer = SViTTForVideoQuestionAnswering(retriever.config)
    results = {}
    for size in SIZES:
        reader = VideoReader(processor, 4, processing, BadVideoReport(folder / "bad_videos.jsonl"), batch_size=4)
        args = RetrievalArguments(num_frames_test=4, k_test=5)
        sets = {
            "captions": retrieval_set(
                load_captions(folder / f"captions_{size}.json", folder / "videos", unique_videos=True)
            ),
            "choices": choice_set(load_choices(folder / f"choices_{size}.json", folder / "videos")),
        }
        scores = {kind: score_split(retriever, rows, reader, args) for kind, rows in sets.items()}
        questions = question_set(load_questions(folder / f"questions_{size}.json", folder / "videos"))
        args = AnsweringArguments(num_frames_test=4, k_test=5)
        predictions = answer_split(answerer, questions, ANSWERS, reader, args)
        results[size] = {
            "scores": {(kind, name): score for kind in sets for name, score in vars(scores[kind]).items()},
            "metrics": {kind: metrics_of(scores[kind], rows) for kind, rows in sets.items()},
            "answers": [prediction.answers for prediction in predictions],
            "probabilities": torch.tensor([prediction.probabilities for prediction in predictions]),
            "accuracies": answer_metrics(questions.questions, predictions, ANSWERS),
        }
    state = PartialState()
    torch.save(results, folder / f"{state.process_index}_of_{state.num_processes}.pt")
    accelerator.end_training()


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory):
    """With the results of one process."""
    folder = tmp_path_factory.mktemp("distributed")
    write_annotations(demo, folder)
    evaluate_all(demo, folder)
    return folder


@pytest.mark.parametrize("num_processes", [2, 3])
def test_results_do_not_depend_on_the_number_of_processes(demo, folder, num_processes):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, __file__, demo, folder], check=True, env=environment, timeout=900)
    expected = torch.load(folder / "0_of_1.pt")
    for rank in range(num_processes):
        found = torch.load(folder / f"{rank}_of_{num_processes}.pt")
        for size in SIZES:
            for name in ("answers", "accuracies"):
                assert found[size][name] == expected[size][name], (rank, size, name)
            # Batches hold other videos, which may change the order of sums within the float32 of a score. That puts
            # copies of a video in another order, which mean ranks tell.
            metrics, others = (flatten_dict(of[size]["metrics"]) for of in (found, expected))
            assert metrics == pytest.approx(others, abs=0.1), (rank, size)  # a recall has steps of more than 1
            for name, scores in expected[size]["scores"].items():
                torch.testing.assert_close(found[size]["scores"][name], scores, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                found[size]["probabilities"], expected[size]["probabilities"], rtol=1e-5, atol=1e-6
            )


if __name__ == "__main__":
    evaluate_all(*sys.argv[1:])
