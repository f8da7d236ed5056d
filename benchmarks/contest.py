"""Contestants in processes of their own, which take turns: what else the machine does hits all of them alike."""

import os
import statistics
import subprocess
import sys
import time

PEER = "peer"


def answer(jobs):
    """A contestant: {name: function} are run at the word of a line of standard input, and timed."""
    for job in jobs.values():
        job(), job()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        jobs[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def start(script, name, arguments=()):
    """Starts `script --contestant name` on the backend `name`, and waits until it is ready."""
    environment = {**os.environ, "KERAS_BACKEND": "torch" if name == PEER else name}
    command = [sys.executable, script, "--contestant", name, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    while (line := process.stdout.readline()).strip() != "ready":
        if not line:
            raise SystemExit(f"{name} did not start")
    return process


def ask(process, job):
    process.stdin.write(job + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def run(script, backends, jobs, rounds, arguments=()):
    """Times each job of every contestant once in each round.

    Returns {job: {name: (median seconds, median over rounds of the peer's time by its own)}}.
    """
    processes = {name: start(script, name, arguments) for name in (PEER, *backends)}
    results = {}
    for job in jobs:
        times = [{name: ask(process, job) for name, process in processes.items()} for _ in range(rounds)]
        results[job] = {
            name: (statistics.median(t[name] for t in times), statistics.median(t[PEER] / t[name] for t in times))
            for name in processes
        }
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return results
