"""The command; see `python pipelines/run.py --help`."""

from mixpanel_pipeline.cli.main import run

if __name__ == "__main__":
    run()
