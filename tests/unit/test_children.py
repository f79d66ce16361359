"""Programs that kan-md starts end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kan_md import children, interrupt
from kan_md.interrupt import ENDING, Ended, interrupts_between_imports

# Writes its process number and that of a child of its own, then sleeps.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(100)
"""
# Starts that as we start programs, and waits for it.
PARENT = """
import sys
from kan_md import children
from kan_md.interrupt import interrupts_between_imports
with interrupts_between_imports():
    children.run([sys.executable, "-S", "-c", *sys.argv[1:3]], start_new_session=len(sys.argv) > 3)
"""


def wait_for(condition, what):
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def runs(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def family(tmp_path):
    """Starts PARENT; returns it, its child and its grandchild."""
    started = []

    def start(*options):
        told = tmp_path / "told"
        parent = subprocess.Popen([sys.executable, "-c", PARENT, FAMILY, str(told), *options])
        started.append(parent.pid)
        numbers = wait_for(lambda: told.exists() and told.read_text().split(), "no child")
        started.extend(map(int, numbers))
        return parent, *map(int, numbers)

    yield start
    for number in started:
        if runs(number):
            os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_what_was_started(number, family):
    parent, child, grandchild = family("session")
    parent.send_signal(number)
    assert parent.wait(60) == 128 + number
    wait_for(lambda: not runs(child) and not runs(grandchild), "orphans")


def test_death_ends_what_was_started(family):
    parent, child, _ = family()
    parent.kill()
    parent.wait()
    wait_for(lambda: not runs(child), "an orphan")


def test_an_error_ends_what_was_started(tmp_path):
    with (
        pytest.raises(RuntimeError),
        children.child([sys.executable, "-S", "-c", "import time; time.sleep(100)"]) as process,
    ):
        raise RuntimeError
    assert process.returncode == -signal.SIGTERM


def test_a_program_that_does_not_listen_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(children, "GRACE", 0.2)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=1); time.sleep(100)"
    with (
        pytest.raises(RuntimeError),
        children.child([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process,
    ):
        process.stdout.readline()
        raise RuntimeError
    assert process.returncode == -signal.SIGKILL


def test_a_program_runs_as_if_started_plainly():
    code = "import os, signal, sys; print(signal.getsignal(signal.SIGXFSZ), sys.argv[1:])"
    done = children.run(
        ["/bin/sh", "-c", "trap; ulimit -c; echo $0 $1; exit 3", "a b", "ä"],
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 3
    assert done.stdout.endswith("a b ä\n")
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ours = children.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert ours.stdout == plain.stdout


def test_a_program_that_is_not_there_is_an_error_status():
    done = children.run(["/nowhere/program"], stderr=subprocess.PIPE)
    assert done.returncode != 0
    assert "/nowhere/program: No such file or directory" in done.stderr


def test_time_that_is_up_ends_a_program():
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(["/bin/sleep", "100"], timeout=0.2)


@pytest.mark.parametrize("number", ENDING)
def test_ending_signals_come_out_as_exits(number):
    before = signal.getsignal(number)
    with pytest.raises(Ended) as end, interrupts_between_imports():
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert end.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_within_an_import_waits_for_its_end(tmp_path, monkeypatch):
    """Python's import system drops exceptions in places."""
    drops = "import os, signal\ntry:\n    os.kill(os.getpid(), 15)\nexcept BaseException: pass\n"
    (tmp_path / "drops_endings.py").write_text(drops)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Ended), interrupts_between_imports():
        import drops_endings

        time.sleep(10)
    assert drops_endings.__file__


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    """`nohup kan-md train` goes on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts_between_imports():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_signals_are_those_of_people_queues_and_terminals():
    assert set(interrupt.ENDING) == {signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
