use super::fixture::{self, HOSTILE, Sample};
use super::*;

fn sample() -> Sample<'static> {
    Sample { latent: "lpc", codes: 8, p: 0.2, seed: 1, accuracy: 0.79 }
}

/// Tags that a page of ours may hold, and nothing that loads or runs.
fn assert_closed(page: &str) {
    for forbidden in ["<script", "<link", "<img", "<iframe", "src=", "@import", "url(", "onload", "<text>\n<"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // The only address in it is the name of the SVG vocabulary, which nothing fetches.
    let rest = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!rest.contains("http://") && !rest.contains("https://"));
    for tag in ["table", "figure", "svg", "section", "details", "dl", "ul"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_run_report_is_whole_closed_and_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    fixture::run(dir.path(), &sample());
    let path = write(dir.path()).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    assert_closed(&page);
    assert!(page.contains("79.0 %") && page.contains("95 %: 77.0 to 81.0 %"));
    assert!(page.matches("<svg ").count() >= 10, "{}", page.matches("<svg ").count());
    assert!(page.contains("flan_v2_niv2") && page.contains("\\n  ␣up11"));
    write(dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
}

#[test]
fn a_run_report_says_what_each_code_prefers() {
    let dir = tempfile::tempdir().unwrap();
    fixture::run(dir.path(), &sample());
    // A file of an older version: agreement alone.
    fixture::posteriors(dir.path(), false);
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert!(page.contains("effective codes") && !page.contains("What each code prefers"));
    fixture::posteriors(dir.path(), true);
    let plain = write_with(dir.path(), None).unwrap();
    let page = std::fs::read_to_string(&plain.page).unwrap();
    assert_closed(&page);
    assert!(page.contains("What each code prefers") && page.contains("on the 40 pairs of the test split"));
    assert!(!page.contains("planted preference") && !page.contains(HOSTILE));
    // Code 0 is right on all of source a and on none of the hostile one: darkest, and without a shade.
    let cells = "<tr><th scope=\"row\">0</th><td style=\"--v:0.000\" title=\"0 %\">0 %</td>\
                 <td style=\"--v:0.600\" title=\"100 %\"><b>100 %</b></td></tr>";
    assert!(page.contains(cells), "{}", &page[page.find("accuracy of each code alone").unwrap()..]);
    assert!(page.contains("the darkest cell is 100 %, and 50 % or less has no shade"));
    assert!(page.contains("codes 0 and 2 say the same: correlation 1.00."), "duplicates are named");
    // Prior and posterior: three of four rows the same. Priors of 0.9 and 0.1: e^(0.6931 - 0.3251) = 1.44.
    assert!(page.contains("both name the same code in 75.0 %") && page.contains("<td class=\"n\">1.44</td>"));
    let reading = plain.codes.unwrap();
    assert_eq!((reading.used.as_slice(), reading.n), ([1, 0, 2].as_slice(), 40));

    let frame = artifact::read_parquet(dir.path().join("posteriors.parquet")).unwrap();
    let names = ["length=short", "length=thorough", "risk=cautious"].map(String::from).to_vec();
    let labels = crate::analysis::Labels { names, rows: (0..50).map(|i| Some(i % 2)).collect() };
    let table = crate::analysis::code_accuracy(&frame, &labels, "test").unwrap().unwrap();
    let page = std::fs::read_to_string(write_with(dir.path(), Some(&table)).unwrap().page).unwrap();
    assert_closed(&page);
    let head = "<th scope=\"col\" class=\"n\">length=short</th><th scope=\"col\" class=\"n\">length=thorough</th></tr>";
    assert!(page.contains(head), "a preference without pairs has no column");
    // 20 of 20: Wilson's lower end is 1 / (1 + 1.96^2 / 20) = 0.839.
    let row = "<td>length=thorough</td><td class=\"n\">20</td><td class=\"n\">100.0 %</td>\
               <td class=\"n\">83.9 to 100.0 %</td><td class=\"n\">1</td><td class=\"n\">100.0 %</td>";
    assert!(page.contains(row));
    assert!(std::fs::read_to_string(dir.path().join(MARKDOWN)).unwrap().contains("| 1 | 0 % | 100 % |"));
}

#[test]
fn a_sweep_report_shows_every_line_and_the_failure() {
    let dir = tempfile::tempdir().unwrap();
    fixture::sweep(dir.path());
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert_closed(&page);
    for words in ["lpc, 32 codes", "lpc-reliable, 8 codes", "1 of 36 runs failed", "Mislabel AUROC", "codes in use"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(page.contains("Accuracy against the number of codes"));
    let markdown = std::fs::read_to_string(dir.path().join(MARKDOWN)).unwrap();
    assert!(markdown.contains("| dpo | lpc, 8 codes | uniform | 20 % | 3 |"), "{markdown}");
}

#[test]
fn untrusted_text_is_escaped_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    fixture::run(dir.path(), &sample());
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert!(!page.contains(HOSTILE) && !page.contains("<script"));
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;|`_*"));
    let markdown = std::fs::read_to_string(dir.path().join(MARKDOWN)).unwrap();
    assert!(!markdown.contains("<script") && markdown.contains("&lt;script&gt;"));
    assert!(markdown.contains("\\|\\`\\_\\*"));
    assert_eq!(page::html("a\u{202e}b\u{1b}[31m"), "a\\u{202e}b\\u{1b}[31m");
    assert_eq!(page::html("two\nlines"), "two\nlines");
    assert_eq!(visible("two\nlines\t"), "two\\nlines\\t");
}

#[test]
fn a_run_that_has_just_begun_is_reported_as_such() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1,\"loss\":0.69}\n{\"step\":2,\"lo").unwrap();
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert_closed(&page);
    assert!(page.contains("has no summary yet") && page.contains("1 lines of metrics.jsonl could not be read"));
    assert!(page.contains("<circle"), "one point is a mark");
}

#[test]
fn a_step_written_twice_counts_once_and_late() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n{\"step\":2,\"loss\":1,\"eval_loss\":null}\n";
    std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
    let metrics = load::metrics(dir.path()).unwrap();
    let loss: Vec<(f64, f64)> = metrics.train["loss"].iter().map(|p| (p.x, p.y)).collect();
    assert_eq!(loss, [(1.0, 3.0), (2.0, 1.0)]);
    assert!(metrics.eval.is_empty());
}

#[test]
fn other_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = write(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    std::fs::write(dir.path().join("summary.json"), "[1").unwrap();
    assert!(matches!(write(dir.path()), Err(Error::Artifact { .. })));
}

#[test]
fn numbers_read_well() {
    assert_eq!(page::count(1234567), "1\u{202f}234\u{202f}567");
    assert_eq!(page::percent(f64::NAN, 1), "–");
    assert_eq!(page::points(Some(-0.0123)), "-1.2");
    assert_eq!(page::interval(Some(0.8), None), "");
}

/// Writes samples to look at: `SAMPLE_REPORTS=DIR cargo test ... -- --ignored sample_reports`.
#[test]
#[ignore = "writes pages to look at: SAMPLE_REPORTS=DIR cargo test --release --lib sample_reports -- --ignored"]
fn sample_reports() {
    let Some(dir) = std::env::var_os("SAMPLE_REPORTS").map(PathBuf::from) else { return };
    fixture::run(&dir.join("run"), &sample());
    fixture::sweep(&dir.join("sweep"));
    write(&dir.join("run")).unwrap();
    write(&dir.join("sweep")).unwrap();
}
