import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from support.waiting import until

from icefarm_control.embedded import embedded_database


def test_folders_above_the_database_do_not_become_readable() -> None:
    """Started by root, Postgres runs as another user, who has to pass them but not to read them."""
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o700)
        with embedded_database(Path(above) / "postgres") as database:
            with psycopg.connect(database.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            assert stat.S_IMODE(Path(above).stat().st_mode) in (0o700, 0o711)


@pytest.mark.parametrize("made", ["PG_VERSION", "postmaster.pid", "base/1", "base/5"])
def test_a_first_start_that_was_cut_short_keeps_no_later_one(made: str) -> None:
    with tempfile.TemporaryDirectory() as above:
        directory = Path(above) / "postgres"
        program = (
            "from pathlib import Path; from icefarm_control.embedded import embedded_database; "
            f"embedded_database(Path({str(directory)!r})).__enter__()"
        )
        # With all that it has started, as when a machine loses its power.
        first = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        until(lambda: [*Path(above).glob(f"*/{made}")])
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        with embedded_database(directory) as database, psycopg.connect(database.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_a_killed_owner_left_running_is_taken_over_and_stopped() -> None:
    with tempfile.TemporaryDirectory() as above:
        directory = Path(above) / "postgres"
        program = (
            "import os; from pathlib import Path; "
            "from icefarm_control.embedded import embedded_database; "
            f"running = embedded_database(Path({str(directory)!r})); running.__enter__(); "
            "os.kill(os.getpid(), 9)"
        )
        killed = subprocess.run([sys.executable, "-c", program], check=False)
        assert killed.returncode == -signal.SIGKILL
        pid_file = directory / "postmaster.pid"
        assert pid_file.exists()
        with embedded_database(directory) as database, psycopg.connect(database.url):
            pass
        assert not pid_file.exists()
