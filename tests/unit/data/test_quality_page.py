from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.judge import Check, Example
from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import Change
from pipelines_lib.data.quality_page import quality_page
from pipelines_lib.use_case import Quality


def test_the_page_says_what_happened_and_escapes_what_others_wrote(make_use_case):
    rejections = Rejections(make_use_case())
    rejections.add({f"r{i}": {"type: <b> is not an integer"} | ({"expect_<i>"} if i == 1 else set()) for i in range(7)})
    checks = [
        Check("expect_<i>", False, True, n_checked=90, n_failed=1, examples=(Example("r1", "<u>"),)),
        Check("mean & more", False, False, 100, 0, "observed 3"),
    ]
    page = quality_page(
        use_case="<script>alert(1)</script>",
        partition_key="2026-01-01",
        findings=Findings(Quality(), 100, rejections, checks, [Change("new column", "<em>", "not declared, and kept in raw")]),
        notes=["k-anonymity: 3 < 5"],
        data_docs="data_docs.html",
    )

    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "<strong>Held</strong>: mean &amp; more failed (observed 3)" in page
    assert "100 rows, 7 of them in quarantine (7.0%)." in page
    assert "type: &lt;b&gt; is not an integer</td><td class=n>7</td><td><code>r0, r1, r2</code>" in page
    assert "expect_&lt;i&gt;</td><td class=n>1</td><td><code>r1 (&#x27;&lt;u&gt;&#x27;)</code>" in page
    assert "<td>new column</td><td>&lt;em&gt;</td>" in page
    assert "<p>k-anonymity: 3 &lt; 5</p>" in page
    assert '<a href="data_docs.html">' in page
    assert "http" not in page


def test_a_quiet_day(make_use_case):
    quiet = Findings(Quality(), 3, Rejections(make_use_case()))
    page = quality_page(use_case="shop", partition_key="2026-01-01", findings=quiet, notes=[])

    assert "<strong>Passed</strong>" in page
    assert "No row is in quarantine." in page
    assert "The use case states none." in page
    assert "Data Docs" not in page
