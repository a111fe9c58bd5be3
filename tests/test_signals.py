import os
import signal
import threading

from stan_jax.signals import Signals


def test_the_first_signal_of_a_kind_is_kept_and_the_old_way_comes_back():
    before = signal.getsignal(signal.SIGUSR1)
    called = []
    with Signals(("SIGUSR1", "SIGNOWHERE")) as signals:
        signals.then = lambda: called.append(signals.received)
        assert (signals.received, signals.exit_status) == ("", 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == "SIGUSR1"
        assert signals.exit_status == 128 + signal.SIGUSR1
        assert called == ["SIGUSR1"]
        assert signal.getsignal(signal.SIGUSR1) == before  # the second one ends us
    assert signal.getsignal(signal.SIGUSR1) == before


def test_in_another_thread_signals_are_left_to_whom_it_is_of():
    """As in Ray's workers: Python would raise a ValueError."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with Signals() as signals:
            found.append((signals.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [("", before)]
