"""The command; see `python pipelines/run.py --help`."""

import signal

if __name__ == "__main__":
    # Until the command can tell that it was interrupted: signals are delayed, not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))

    from mixpanel_pipeline.cli.main import run

    run()
