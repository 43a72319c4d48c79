"""Does a test that hangs end, say where, and leave nothing that runs?"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from bakery import ROOT
from projects import Made


def test_what_a_test_has_started_ends_with_it_and_its_words_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, late)
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(TimeoutError):
            Made(tmp_path).run("bash", "-c", "echo it begins; sleep 4711 & sleep 4711")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "it begins" in capsys.readouterr().out
    assert not [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "4711"]]


def test_a_test_that_waits_for_ever_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text("def test_it():\n    __import__('threading').Event().wait()\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "\ntimeout = " in settings
    ran = subprocess.run([*command, "-o", "timeout=1", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "FAILED" in ran.stdout
    assert "Timeout (>1.0s)" in ran.stdout
