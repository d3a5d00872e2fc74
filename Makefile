# The Python that makes .venv; any CPython from 3.11 on.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-other test-schedules test-report test-spark demo-spark chaos chaos-spark bench bench-scale lint lock wheel docs

help:
	@echo "make demo   a local Mixpanel, two syncs from it, and the counts"
	@echo "make test   the tests, each on one database; make test-other: on the other one"
	@echo "make test-schedules  the examples for cron, systemd, Dagster, Airflow and GitHub Actions"
	@echo "make test-report  the report's page in a headless Chromium, with screenshots in screenshots/"
	@echo "make demo-spark  the demo on a Spark cluster of this machine; make test-spark: its tests"
	@echo "make chaos  200 random histories on each database, over an hour on 2 cores"
	@echo "make chaos-spark  100 on a Spark cluster of this machine, hours"
	@echo "make bench  how fast it is, an hour; writes docs/benchmarks.md"
	@echo "make lint   code style, types and SQL style"
	@echo "make wheel  the installable package, in dist/"
	@echo "make docs   README's other pages as a site, in site/"
	@echo "make setup  .venv with everything pinned; the others do it when it is due"
	@echo "make lock   newer versions into the lock files"

setup: .venv/installed

.venv/installed: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: setup
	.venv/bin/python pipelines/run.py demo

# Each test that is of both databases on one of them, the tests in turn; then on the other.
test: setup
	.venv/bin/python -m pytest --databases=one

test-other: setup
	.venv/bin/python -m pytest --databases=other

# Each tool has the installed package in an environment of its own, as users have it.
test-schedules: wheel .venv-dagster/installed .venv-airflow/installed
	for tool in dagster airflow; do \
		.venv-$$tool/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
			--force-reinstall dist/*.whl || exit; \
	done
	.venv-dagster/bin/python -m pytest -c tests/schedules/pytest.toml \
		tests/schedules/test_commands.py tests/schedules/test_dagster.py
	.venv-airflow/bin/python -m pytest -c tests/schedules/pytest.toml tests/schedules/test_airflow.py

# Chromium and its driver are those of the machine; of Debian's, where there are none.
test-report: wheel .venv-browser/installed
	command -v chromium chromedriver || \
		{ apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver; }
	.venv-browser/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index \
		--force-reinstall dist/*.whl
	.venv-browser/bin/python -m pytest -c tests/browser/pytest.toml tests/browser

# A master, two workers, Thrift and the catalog, on loopback; Java 17 has to be there.
demo-spark: .venv-spark/installed
	PYTHONPATH=pipelines:. .venv-spark/bin/python -m tests.spark.demo

test-spark: .venv-spark/installed
	.venv-spark/bin/python -m pytest -c tests/spark/pytest.toml tests/spark $(OPTIONS)

# The lock file is complete, and older versions of pip stumble over extras in one (`fastapi[…]`).
.venv-%/installed: requirements-%.lock
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--no-deps -r $<
	@touch $@

# HISTORIES=n, on the databases in turn, makes it longer or shorter.
chaos: setup
	HISTORIES=$(HISTORIES) .venv/bin/python -m pytest tests/test_histories.py

HISTORIES ?= 400

chaos-spark: .venv-spark/installed
	HISTORIES=$(SPARK_HISTORIES) .venv-spark/bin/python -m pytest -c tests/spark/pytest.toml tests/spark/test_histories.py

SPARK_HISTORIES ?= 100

bench-scale: .venv-spark/installed
	PYTHONPATH=pipelines:. .venv-spark/bin/python -m benchmarks.scale $(OPTIONS)

# SECTIONS="load idle" measures only those; OPTIONS="--events 200000" changes their sizes.
bench: setup
	PYTHONPATH=pipelines:. .venv/bin/python -m benchmarks $(SECTIONS) $(OPTIONS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@# In memory: the templater asks for a database, though nothing is read from it.
	DESTINATION_TYPE=duckdb DESTINATION__DUCKDB__CREDENTIALS=:memory: \
		.venv/bin/sqlfluff lint --config dbt_project/.sqlfluff dbt_project/models dbt_project/tests

wheel: setup
	.venv/bin/python -m hatchling build --clean --directory dist

docs: .venv-docs/installed
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env \
		--doctree-dir .venv-docs/doctrees --builder html docs site

# The tools' versions decide: what runs in production is what is tested.
lock: setup
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip compile $(LOCK) --upgrade --group dev pyproject.toml -o requirements-dev.lock
	.venv/bin/uv pip compile $(LOCK) --upgrade -c requirements-dev.lock pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile $(LOCK) --upgrade --group docs -o requirements-docs.lock
	for tool in dagster airflow browser spark; do \
		.venv/bin/uv pip compile $(LOCK) --upgrade -c requirements-dev.lock --group $$tool \
			pyproject.toml -o requirements-$$tool.lock || exit; \
	done

LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-strip-extras
