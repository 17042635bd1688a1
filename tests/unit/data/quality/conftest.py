"""Great Expectations the usual way: one suite on one frame of the whole partition, with every result complete."""

import warnings

import pytest

from pipelines_lib.data.quality.gx import expectation, great_expectations


@pytest.fixture(scope="session")
def whole_run():
    """Returns `whole_run(rows, quality)`."""
    return _whole_run


def _whole_run(rows, quality):
    """(success, positions of the rows that failed or None, observed value) of each expectation, in the order written."""
    gx = great_expectations()
    base = gx.data_context.types.base
    stores = base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = base.DataContextConfig(store_backend_defaults=stores, progress_bars=base.ProgressBarsConfig(globally=False))
    context = gx.get_context(mode="ephemeral", project_config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = gx.ExpectationSuite(name="quality")
        for index, item in enumerate(quality.expectations):
            [(name, arguments)] = item.items()
            suite.add_expectation(expectation(name, arguments, index).impl)
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset("partition")
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": rows.to_pandas()})
        report = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    found = {result.expectation_config.meta["index"]: result for result in report.results}
    return [_finding(found[index]) for index in range(len(quality.expectations))]


def _finding(result):
    info = result.exception_info
    assert not info.get("raised_exception", any(part["raised_exception"] for part in info.values() if isinstance(part, dict))), info
    positions = result.result.get("unexpected_index_list")
    return bool(result.success), None if positions is None else sorted(set(positions)), result.result.get("observed_value")
