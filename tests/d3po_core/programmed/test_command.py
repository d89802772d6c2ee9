"""A program of one's own as an objective: real little workers that answer, die, talk nonsense or sleep."""

import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from d3po_core.errors import ObjectiveError
from d3po_core.programmed.command import CommandWorker
from d3po_core.programmed.config import CommandConfig
from d3po_core.programmed.loading import load_objective
from tests.support.project import until

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
PROMPTS = ["a", "ü ö", 'with "quotes"', "two\nlines", ""]
LOOP = "import json, os, sys, time\nfor number, line in enumerate(sys.stdin):\n    asked = json.loads(line)\n"
GOOD = f"""
import numpy
from PIL import Image
print("loading the weights", file=sys.stderr)
{LOOP}
    means = [float(numpy.asarray(Image.open(path)).mean()) for path in asked["images"]]
    print(json.dumps({{"values": [m + len(p) for m, p in zip(means, asked["prompts"])]}}), flush=True)
"""

Worker = Callable[..., CommandWorker]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    made: list[CommandWorker] = []

    def start(text: str, timeout: float = 300.0) -> CommandWorker:
        script = tmp_path / f"worker-{len(made)}.py"
        script.write_text(f"import sys\n{text}")
        made.append(CommandWorker([sys.executable, str(script)], timeout))
        return made[-1]

    yield start
    for one in made:
        one.close()


def process_of(worker: CommandWorker) -> subprocess.Popen:
    assert worker._process is not None
    return worker._process


def test_it_answers_one_line_a_batch_and_lives_on(worker: Worker):
    good = worker(GOOD)
    wanted = [image.mean() + len(prompt) for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
    assert good(IMAGES, PROMPTS) == pytest.approx(wanted)
    first = process_of(good).pid
    assert good(IMAGES[:2], PROMPTS[:2]) == pytest.approx(wanted[:2])
    assert process_of(good).pid == first


def test_as_an_objective_of_the_configuration(tmp_path: Path):
    (tmp_path / "worker.py").write_text(f"import sys\n{GOOD}")
    config = CommandConfig(kind="command", command=(sys.executable, str(tmp_path / "worker.py")), batch_size=2)
    objective = load_objective("mine", config)
    assert objective(IMAGES, PROMPTS) == pytest.approx(
        [i.mean() + len(p) for i, p in zip(IMAGES, PROMPTS, strict=True)]
    )
    objective.function.close()


def test_a_request_larger_than_a_pipe(worker: Worker):
    """Neither side may wait for the other for ever."""
    many = worker(f"{LOOP}    print(json.dumps({{'values': [len(p) for p in asked['prompts']]}}), flush=True)\n")
    prompts = ["x" * 5000] * 64
    assert many(np.zeros((64, 1, 1, 3), np.uint8), prompts) == [5000] * 64


def test_its_pictures_are_gone_afterwards(worker: Worker, tmp_path: Path):
    paths = worker(
        f"{LOOP}    open({str(tmp_path / 'seen')!r}, 'w').write(chr(10).join(asked['images']))\n"
        "    print(json.dumps({'values': [float(os.path.exists(p)) for p in asked['images']]}), flush=True)\n"
    )
    assert paths(IMAGES, PROMPTS) == [1.0] * 5
    seen = (tmp_path / "seen").read_text().splitlines()
    assert len(seen) == 5
    assert not any(Path(path).exists() for path in seen)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.exit('no weights at /models')", r"ended \(exit status 1\) before it (was asked|answered).*no weights at"),
        (f"{LOOP}    os._exit(7)\n", r"ended \(exit status 7\) before it answered; its stderr is empty"),
        (f"{LOOP}    os.kill(os.getpid(), 9)\n", r"ended \(signal 9\) before it answered"),
        (f"{LOOP}    print('loading: 100%', flush=True)\n", r"answered 'loading: 100%', expected one line"),
        (f"{LOOP}    print('[1, 2, 3, 4, 5]', flush=True)\n", "expected one line"),
        (f'{LOOP}    print(\'{{"values": [1, 2, "3", 4, 5]}}\', flush=True)\n', "expected one line .*5 numbers"),
        (f"{LOOP}    print('{{\"values\": [1, 2, true, 4, 5]}}', flush=True)\n", "expected one line"),
        (f"{LOOP}    print('{{\"values\": [1, 2]}}', flush=True)\n", "answered 2 values for 5 images"),
    ],
    ids=["start", "dies", "killed", "noise", "list", "text", "bool", "count"],
)
def test_whatever_else_it_does_is_explained(worker: Worker, text: str, said: str):
    wrong = worker(text)
    with pytest.raises(ObjectiveError, match=f"(?s){said}") as caught:
        wrong(IMAGES, PROMPTS)
    assert "next: run that command by hand" in str(caught.value)
    assert wrong._process is None, "it was ended"


@pytest.mark.parametrize(
    "text", [f"{LOOP}    time.sleep(60)\n", "sys.stdin.readline()\nwhile True: print('x', end='', flush=True)"]
)
def test_it_has_a_deadline(worker: Worker, text: str):
    slow = worker(text, timeout=1.0)
    begun = time.monotonic()
    with pytest.raises(ObjectiveError, match="did not answer within 1 s"):
        slow(IMAGES, PROMPTS)
    assert time.monotonic() - begun < 50


def test_what_it_started_ends_with_it(tmp_path: Path):
    """As with `conda run`, or a shell before the program."""
    script = tmp_path / "slow.py"
    script.write_text(f"""{LOOP}
    if number:
        time.sleep(600)
    print(json.dumps({{"values": [os.getpid()] * len(asked["images"])}}), flush=True)
""")
    wrapped = CommandWorker(["sh", "-c", f"{sys.executable} {script}; true"], timeout=300.0)
    program = int(wrapped(IMAGES, PROMPTS)[0])
    assert program != process_of(wrapped).pid, "the shell stands between"
    wrapped.timeout = 1.0  # only now: the start is behind it
    with pytest.raises(ObjectiveError, match="did not answer within 1 s"):
        wrapped(IMAGES, PROMPTS)
    until(lambda: not Path(f"/proc/{program}").exists(), 60, "its end")


def test_a_second_answer_is_not_the_next_batchs(worker: Worker, tmp_path: Path):
    go_on = tmp_path / "go-on"
    twice = worker(f"""{LOOP}
    print(json.dumps({{"values": [1.0] * len(asked["images"])}}), flush=True)
    while not os.path.exists({str(go_on)!r}):
        time.sleep(0.01)
    print(json.dumps({{"values": [2.0] * len(asked["images"])}}), flush=True)
""")
    assert twice(IMAGES, PROMPTS) == [1.0] * 5
    go_on.touch()
    said = process_of(twice).stdout
    until(lambda: select.select([said], [], [], 0)[0], 60, "the second answer")
    with pytest.raises(ObjectiveError, match="before it was asked, expected one line a batch"):
        twice(IMAGES, PROMPTS)


def test_no_number_is_named_with_its_image(tmp_path: Path):
    (tmp_path / "worker.py").write_text(f"{LOOP}    print('{{\"values\": [1, NaN]}}', flush=True)\n")
    config = CommandConfig(kind="command", command=(sys.executable, str(tmp_path / "worker.py")), batch_size=2)
    objective = load_objective("mine", config)
    with pytest.raises(ObjectiveError, match=r"mine gave nan for image g-1 \('ü ö'\)"):
        objective(IMAGES[:2], PROMPTS[:2], ["g-0", "g-1"])
    objective.function.close()


def test_no_such_program():
    with pytest.raises(ObjectiveError, match=r"cannot be started: .*no-such-program"):
        CommandWorker(["no-such-program"], 5)(IMAGES, PROMPTS)


def test_it_is_started_again_after_it_failed(worker: Worker, tmp_path: Path):
    once = worker(
        f"first = not os.path.exists({str(tmp_path / 'was-here')!r})\n".replace("os", "__import__('os')")
        + f"open({str(tmp_path / 'was-here')!r}, 'w').close()\n"
        + f"{LOOP}    print('no' if first else json.dumps({{'values': [0] * 5}}), flush=True)\n"
    )
    with pytest.raises(ObjectiveError, match="answered 'no'"):
        once(IMAGES, PROMPTS)
    assert once(IMAGES, PROMPTS) == [0] * 5


def test_its_environment_is_its_own(worker: Worker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "of-ours")
    monkeypatch.setenv("PYTHONHOME", "")
    own = worker(f"{LOOP}    print(json.dumps({{'values': [float('PYTHONPATH' in os.environ)]}}), flush=True)\n")
    assert own(IMAGES[:1], PROMPTS[:1]) == [0.0]


@pytest.mark.parametrize("end", ["sys.exit(0)", "os.kill(os.getpid(), 9)"], ids=["in order", "killed"])
def test_it_ends_with_its_owner(end: str):
    owner = (
        "import numpy, os, sys\nfrom d3po_core.programmed.command import CommandWorker\n"
        f"one = CommandWorker([sys.executable, '-c', {('import sys' + GOOD)!r}], 300)\n"
        "one(numpy.zeros((1, 2, 2, 3), 'uint8'), ['a'])\n"
        f"print(one._process.pid, flush=True)\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, timeout=300)
    worker = int(done.stdout)
    until(lambda: not Path(f"/proc/{worker}").exists(), 60, "its end")
