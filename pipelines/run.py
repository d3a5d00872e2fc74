"""The command; see `python pipelines/run.py --help`."""

from mixpanel_pipeline.cli.command import command

if __name__ == "__main__":
    command()
