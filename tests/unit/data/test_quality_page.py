from pipelines_lib.data.quality import Check
from pipelines_lib.data.quality_page import quality_page


def test_the_page_says_what_happened_and_escapes_what_users_wrote():
    page = quality_page(
        use_case="<script>alert(1)</script>",
        partition_key="2026-01-01",
        n_rows=100,
        held_because="mean & more failed",
        reasons={f"r{i}": {"type: <b> is not an integer"} for i in range(7)},
        checks=[Check("expect_<i>", False, True, (1, 2)), Check("mean", True, False, (), "observed 3")],
    )

    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "<strong>Held</strong>: mean &amp; more failed" in page
    assert "100 rows, 7 of them in quarantine (7.0%)." in page
    assert "type: &lt;b&gt; is not an integer</td><td class=n>7</td><td><code>r0, r1, r2, r3, r4</code>" in page
    assert "expect_&lt;i&gt;" in page
    assert "http" not in page


def test_a_quiet_day():
    page = quality_page(use_case="shop", partition_key="2026-01-01", n_rows=0, held_because="", reasons={}, checks=[])

    assert "<strong>Passed</strong>" in page
    assert "No row is in quarantine." in page
    assert "The use case states none." in page
