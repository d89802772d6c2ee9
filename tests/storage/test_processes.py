"""Processes that race, and processes that are killed: on real disks and a real server, with real signals."""

import random
import time

from storage.manifest import build_seal, verify_epoch
from storage.prune import abandoned
from storage.run import Run
from tests.storage.samples import commit_text, die_at, race, work

SHARDS = 6


def sealed_content(run: Run) -> dict:
    epoch = run.epoch(0)
    epoch.create_plan({"groups": list(range(2 * SHARDS))})
    return build_seal(epoch, {})


def test_of_three_racers_one_commits(run, child_environment, processes):
    names = [f"shard-{index:06d}" for index in range(6)]
    barrier, report = processes.Barrier(3), processes.Queue()
    arguments = (run.root, run.name, names, barrier, report, child_environment)
    racers = [processes.Process(target=race, args=arguments) for _ in range(3)]
    for racer in racers:
        racer.start()
    reports = [report.get(timeout=300) for _ in racers]
    for racer in racers:
        racer.join()
    epoch = run.epoch(0)
    assert epoch.commit_numbers() == {name: [1] for name in names}
    winners = {name: commit.attempt for name, commit in epoch.latest_all().items()}
    assert reports == [winners] * 3
    for commit in epoch.latest_all().values():
        assert epoch.fetch(commit, "who.txt").read_text() == commit.attempt
    assert abandoned(epoch) == []
    assert [finding.name for finding in verify_epoch(epoch)] == ["plan"]


def test_kills_at_random_moments_change_nothing(run, child_environment, processes):
    undisturbed = Run.create(run.root, "undisturbed", {})
    began = time.monotonic()
    child = processes.Process(target=work, args=(run.root, undisturbed.name, SHARDS, 0, child_environment))
    child.start()
    child.join()
    seconds = time.monotonic() - began
    expected = sealed_content(undisturbed)

    moments = random.Random(1)
    kills = 0
    for seed in range(100):
        started = processes.Event()
        child = processes.Process(target=work, args=(run.root, run.name, SHARDS, seed, child_environment, started))
        child.start()
        assert started.wait(300)
        # The first two are killed as soon as they begin: on a machine that gets faster meanwhile they would be done
        # before. On one that gets slower the later ones would never be done: each has a little longer than the last.
        child.join(0.0 if kills < 2 else moments.uniform(0.0, 0.5 * 1.05**kills * seconds))
        if child.exitcode is None:
            child.kill()
            kills += 1
        child.join()
        for commit in run.epoch(0).latest_all().values():
            run.epoch(0).fetch(commit)
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    assert kills >= 2
    found = sealed_content(run)
    assert (found["digest"], found["content"]) == (expected["digest"], expected["content"])
    run.sweep()
    for key in abandoned(run.epoch(0)):
        run.backend.remove(key)
    assert abandoned(run.epoch(0)) == []
    assert list(verify_epoch(run.epoch(0))) == []


def test_a_kill_at_every_step_of_a_commit_leaves_all_or_nothing(tmp_path, processes):
    root = str(tmp_path)
    for step in range(1, 200):
        run = Run.create(root, f"run-{step}", {})
        child = processes.Process(target=die_at, args=(step, root, run.name))
        child.start()
        child.join(300)
        epoch = run.epoch(0)
        before = epoch.latest("prompts")
        if before is not None:
            assert epoch.fetch(before, "note.txt").read_text() == "hello"
        after = commit_text(epoch, "prompts")
        assert after == (before or after)
        assert epoch.fetch(after, "deep/more.txt").read_text() == "hellohello"
        assert epoch.commit_numbers() == {"prompts": [1]}
        run.sweep()
        for key in abandoned(epoch):
            run.backend.remove(key)
        assert [finding.name for finding in verify_epoch(epoch)] == ["plan"]
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    assert step > 15


def test_workers_share_an_epoch(run, child_environment, processes):
    report = processes.Queue()
    arguments = [(run.root, run.name, SHARDS, seed, child_environment, None, report) for seed in range(3)]
    workers = [processes.Process(target=work, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    reports = [report.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    assert reports[0] == reports[1] == reports[2]
    assert run.epoch(0).commit_numbers() == {f"shard-{index:06d}": [1] for index in range(SHARDS)}
