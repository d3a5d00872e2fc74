"""dlt's own settings, meant for other pipelines or by mistake, change nothing of a sync."""

from datetime import timedelta

from dlt.common.runtime import run_context

from tests.conftest import NOW
from tests.warehouses import rows, subscribers

SETTINGS = {
    "REFRESH": "drop_data",
    "PIPELINES__MIXPANEL__REFRESH": "drop_sources",
    "MIXPANEL__REFRESH": "drop_resources",
    "DEV_MODE": "true",
    "PIPELINES__MIXPANEL__DEV_MODE": "true",
    "FULL_REFRESH": "true",
    "PIPELINE_NAME": "other",
    "DATASET_NAME": "other",
    "DATASET_NAME_LAYOUT": "other_%s",
    "USE_SINGLE_DATASET": "false",
    "RESTORE_FROM_DESTINATION": "false",
    "STAGING_TYPE": "filesystem",
    "IMPORT_SCHEMA_PATH": "schemas",
    "EXPORT_SCHEMA_PATH": "schemas",
    "PIPELINES_DIR": "pipelines",
    "DESTINATION_NAME": "other",
    "PROGRESS": "log",
    "SCHEMA__NAMING": "sql_ci_v1",
    "SOURCES__SCHEMA__NAMING": "direct",
    "SCHEMA__JSON_NORMALIZER": '{"module": "dlt.common.normalizers.json.relational"}',
    "SCHEMA_CONTRACT": "freeze",
    "MAX_TABLE_NESTING": "0",
    "EXTRACT__MAX_PARALLEL_ITEMS": "1",
    "EXTRACT__NEXT_ITEM_MODE": "fifo",
    "NORMALIZE__WORKERS": "2",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_ID": "true",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID": "false",
    "NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS": "1",
    "NORMALIZE__LOADER_FILE_FORMAT": "jsonl",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "2",
    "DATA_WRITER__FILE_MAX_ITEMS": "1",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "LOAD__WORKERS": "1",
    "LOAD__RAISE_ON_FAILED_JOBS": "false",
    "LOAD__RAISE_ON_MAX_RETRIES": "0",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
    "LOAD__TRUNCATE_STAGING_DATASET": "true",
    "LOAD__AUTO_ABORT_ON_TERMINAL_ERROR": "true",
    "TRUNCATE_STAGING_DATASET": "true",
    "LOADER_FILE_FORMAT": "jsonl",
    "REPLACE_STRATEGY": "staging-optimized",
    "STAGING_DATASET_NAME_LAYOUT": "mixpanel",
    "DESTINATION__STAGING_DATASET_NAME_LAYOUT": "%s",
    "DESTINATION__ENABLE_DATASET_NAME_NORMALIZATION": "false",
    "CREATE_INDEXES": "false",
    "DESTINATION__CREATE_INDEXES": "false",
    "DESTINATION__ENVIRONMENT": "staging",
    "CREDENTIALS": "nowhere",
    "CURSOR_PATH": "distinct_id",
    "INITIAL_VALUE": "2030-01-01",
    "END_VALUE": "2020-01-01",
    "LAG": "100000",
    "WRITE_DISPOSITION": "replace",
    "RUNTIME__INTERCEPT_SIGNALS": "true",
    "DLT_ALLOW_EXTERNAL_SCHEDULERS": "true",
    "DLT_INTERVAL_START": "2026-01-01",
    "DLT_INTERVAL_END": "2026-01-02",
}


def test_settings_of_dlt_in_the_environment_change_nothing(
    warehouse, mixpanel, run_sync, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    schemas = (
        "select schema_name from information_schema.schemata where left(schema_name, 3) <> 'pg_'"
    )
    before = rows(warehouse, schemas)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    run_context.active().reload()
    happens(mixpanel, "ada", NOW - timedelta(days=1))
    happens(mixpanel, "ada", NOW - timedelta(hours=1))
    first = run_sync()
    assert (first.error, first.mode, first.events_new) == (None, "first", 2)
    happens(mixpanel, "eve", NOW)
    second = run_sync()
    assert (second.error, second.mode) == (None, "incremental")
    assert (second.events_new, second.events_duplicate) == (1, 1)
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(3,)]
    sessions = {who: row["app_sessions"] for who, row in subscribers(warehouse).items()}
    assert sessions == {"ada": 2, "eve": 1}
    created = {name for (name,) in set(rows(warehouse, schemas)) - set(before)}
    assert created == {"mixpanel_raw", "mixpanel_raw_staging", "mixpanel"}


def happens(mixpanel, who, moment):
    properties = {"time": int(moment.timestamp()), "distinct_id": who, "$insert_id": str(moment)}
    mixpanel.add([{"event": "$ae_session", "properties": properties}])
