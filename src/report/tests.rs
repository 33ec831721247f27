use polars::prelude::{BooleanChunked, Column, NewChunkedArray};

use super::fixture::{self, HOSTILE, Sample};
use super::*;

fn sample() -> Sample<'static> {
    Sample { latent: "lpc", codes: 8, p: 0.2, seed: 1, accuracy: 0.79 }
}

/// Asserts that a page loads and runs nothing, and closes its tags.
fn assert_closed(page: &str) {
    for forbidden in ["<script", "<link", "<img", "<iframe", "src=", "@import", "url(", "onload", "<text>\n<"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // The only address is the name of the SVG namespace, which is never loaded.
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
    assert!(page.matches("<svg role").count() >= 10, "{}", page.matches("<svg role").count());
    assert!(page.contains("flan_v2_niv2") && page.contains("\\n  ␣up11"));
    write(dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page);
}

#[test]
fn a_run_report_says_what_each_code_prefers() {
    let dir = tempfile::tempdir().unwrap();
    fixture::run(dir.path(), &sample());
    // A file of an older version gives the agreement only.
    fixture::posteriors(dir.path(), false);
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert!(page.contains("effective codes") && !page.contains("What each code prefers"));
    fixture::posteriors(dir.path(), true);
    let plain = write_with(dir.path(), &ReportOptions::default()).unwrap();
    let page = std::fs::read_to_string(&plain.page).unwrap();
    assert_closed(&page);
    assert!(page.contains("What each code prefers") && page.contains("on the 40 pairs of the test split"));
    assert!(!page.contains("planted preference") && !page.contains(HOSTILE));
    // Code 0 is right on all of source a and on none of the hostile one: darkest, and without a shade.
    let cells = "<tr><th scope=\"row\">0</th><td style=\"--v:0.000\" title=\"0 %\">0 %</td>\
                 <td style=\"--v:0.600\" title=\"100 %\"><b>100 %</b></td></tr>";
    assert!(page.contains(cells), "{}", &page[page.find("accuracy of each code alone").unwrap()..]);
    assert!(page.contains("the bluest cell is 100 %, and 50 % or less is not blue"));
    assert!(page.contains("codes 0 and 2 say the same: correlation 1.00."), "duplicates are named");
    // Prior and posterior: three of four rows the same. Priors of 0.9 and 0.1: e^(0.6931 - 0.3251) = 1.44.
    assert!(page.contains("both name the same code in 75.0 %") && page.contains("<td class=\"n\">1.44</td>"));
    let reading = plain.codes.unwrap();
    assert_eq!((reading.used.as_slice(), reading.n), ([1, 0, 2].as_slice(), 40));

    let frame = artifact::read_parquet(dir.path().join("posteriors.parquet")).unwrap();
    let names = ["length=short", "length=thorough", "risk=cautious"].map(String::from).to_vec();
    let labels = crate::analysis::Labels { names, rows: (0..50).map(|i| Some(i % 2)).collect() };
    let table = crate::analysis::code_accuracy(&frame, &labels, "test").unwrap().unwrap();
    let options = ReportOptions { preferences: Some(&table), ..ReportOptions::default() };
    let page = std::fs::read_to_string(write_with(dir.path(), &options).unwrap().page).unwrap();
    assert_closed(&page);
    let head = "<th scope=\"col\" class=\"n\">length=<wbr>short</th>\
                <th scope=\"col\" class=\"n\">length=<wbr>thorough</th></tr>";
    assert!(page.contains(head), "a preference without pairs has no column");
    // 20 of 20: Wilson's lower end is 1 / (1 + 1.96^2 / 20) = 0.839.
    let row = "<td>length=thorough</td><td class=\"n\">20</td><td class=\"n\">100.0 %</td>\
               <td class=\"n\">83.9 to 100.0 %</td><td class=\"n\">1</td><td class=\"n\">100.0 %</td>";
    assert!(page.contains(row));
    assert!(std::fs::read_to_string(dir.path().join(MARKDOWN)).unwrap().contains("| 1 | 0 % | 100 % |"));
}

#[test]
fn a_run_report_says_what_the_codes_go_with() {
    let dir = tempfile::tempdir().unwrap();
    let (run, data) = (dir.path().join("run"), dir.path().join("data"));
    fixture::run(&run, &sample());
    fixture::posteriors(&run, true);
    // Without the prepared folder what needs it is left out, and that is said.
    let written = write_with(&run, &ReportOptions::default()).unwrap();
    let page = std::fs::read_to_string(&written.page).unwrap();
    assert_closed(&page);
    let meaning = written.meaning.unwrap();
    assert!(
        page.contains("The run does not say where its prepared folder is; prompt lengths, scores, models and texts")
    );
    assert!(!page.contains("score margin") && page.contains("length difference (tokens)"));
    assert!(page.contains(&format!("{:032x}", 2)), "ids stand for texts");
    // The posterior is one of two points: the source, but for the code that repeats another.
    let associations = &meaning.associations.splits[0];
    assert_eq!((associations.split.as_str(), associations.n), ("test", 40));
    let source = associations.labels.iter().find(|l| l.attribute == "source").unwrap();
    assert_eq!((source.nmi, source.p), (Some(1.0), Some(0.001)));
    assert!(
        page.contains(
            "<td>source</td><td>prior</td><td>test pairs</td><td class=\"n\">40</td><td class=\"n\">2</td>\
        <td class=\"n\">1.000</td><td class=\"n\">1.000</td><td class=\"n\">0.0010</td>"
        ),
        "{page}"
    );
    let projection = meaning.projection.unwrap();
    assert_eq!((projection.n, projection.colours[0].silhouette), (50, Some(1.0)));
    assert!(page.contains("t-SNE, by source") && !page.contains("t-SNE, by flipped"), "no label is flipped");
    assert_eq!(page.matches("class=\"scatter\"").count(), 2);
    let coordinates = artifact::read_parquet(run.join("projection.parquet")).unwrap();
    assert_eq!((coordinates.height(), coordinates.width()), (50, 8));

    // With it there are texts, cut and escaped.
    fixture::prepared(&run, &data, HOSTILE);
    let planted =
        crate::analysis::Labels { names: vec!["x".into(), "y".into()], rows: (0..50).map(|i| Some(i / 25)).collect() };
    let planted = [("preference".to_string(), planted)];
    let options = ReportOptions { planted: &planted, ..ReportOptions::default() };
    let written = write_with(&run, &options).unwrap();
    let page = std::fs::read_to_string(&written.page).unwrap();
    assert_closed(&page);
    assert!(!page.contains(HOSTILE));
    assert!(page.contains("has 49 of the run&#39;s 50 pairs") && page.contains("score margin"));
    assert!(page.contains("models (chosen over rejected)") && page.contains("t-SNE, by planted preference"));
    let meaning = written.meaning.unwrap();
    // Code 0, the prior: 0.9 for every second pair, one of a prompt; the first pair has no texts.
    let first = meaning.representatives.iter().find(|r| r.code == 0).unwrap();
    let ids: Vec<String> = [0, 2, 4].iter().map(|i| format!("{i:032x}")).collect();
    assert_eq!(first.pairs.iter().map(|p| p.id.clone()).collect::<Vec<_>>(), ids);
    assert!(first.pairs[0].texts.is_none());
    let texts = first.pairs[1].texts.clone().unwrap();
    assert!(texts.prompt.starts_with("prompt 1: <script>") && texts.prompt.ends_with('…'), "{texts:?}");
    assert!(page.contains("prompt 1: &lt;script&gt;alert"));
    let again = write_with(&run, &options).unwrap();
    assert_eq!(std::fs::read_to_string(&again.page).unwrap(), page);
    assert!(std::fs::read_to_string(run.join(MARKDOWN)).unwrap().contains("| source | posterior | test pairs |"));

    // Without a projection that of an earlier report goes.
    let none = ReportConfig { projection: crate::analysis::Method::None, ..ReportConfig::default() };
    let page = write_with(&run, &ReportOptions { config: none, ..ReportOptions::default() }).unwrap().page;
    assert!(
        !std::fs::read_to_string(page).unwrap().contains("in the plane") && !run.join("projection.parquet").exists()
    );
    let many = ReportConfig { points: 5001, ..ReportConfig::default() };
    let refused = write_with(&run, &ReportOptions { config: many, ..ReportOptions::default() }).unwrap_err();
    assert!(refused.to_string().contains("report.points"), "{refused}");
}

#[test]
fn a_sweep_report_shows_every_line_and_the_failure() {
    let dir = tempfile::tempdir().unwrap();
    fixture::sweep(dir.path(), 3);
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert_closed(&page);
    for words in ["lpc, 32 codes", "lpc-reliable, 8 codes", "Of 45 runs: 1 failed;", "Mislabel AUROC", "codes in use"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(page.contains("Accuracy against the number of codes"));
    // A star stands only where the corrected p-value is below the level, in the main table and not in the other.
    assert!(page.contains(">+2.6*</td>") && page.contains(">+1.0</td>") && !page.contains(">+1.0*</td>"));
    let against = &page[page.find("<h2>Against the baseline</h2>").unwrap()..];
    let against = &against[..against.find("</section>").unwrap()];
    assert!(against.contains("latent mlp") && against.contains(">+2.6</td>"), "{against}");
    let areas = &page[page.find("<h2>Over all noise rates</h2>").unwrap()..];
    assert!(areas.contains("noise rates of 0 to 0.4") && areas.contains(">84.5 %</td>"), "{areas}");
    let markdown = std::fs::read_to_string(dir.path().join(MARKDOWN)).unwrap();
    assert!(markdown.contains("| dpo | lpc, 8 codes | uniform | 0.2 | 19.8 % | 3 |"), "{markdown}");
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
    assert_eq!(text::html("a\u{202e}b\u{1b}[31m"), "a\\u{202e}b\\u{1b}[31m");
    assert_eq!(text::html("two\nlines"), "two\nlines");
    assert_eq!(visible("two\nlines\t"), "two\\nlines\\t");
}

#[test]
fn a_run_that_has_just_begun_is_reported_as_such() {
    let lines = "{\"step\":1,\"loss\":0.69}\n{\"step\":2,\"lo";
    let page = page_of(|dir| std::fs::write(dir.join("metrics.jsonl"), lines).unwrap());
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
    assert!(error.to_string().contains("audit.parquet") && error.hint().is_some_and(|h| h.contains("`audit --out`")));
    std::fs::write(dir.path().join("summary.json"), "[1").unwrap();
    assert!(matches!(write(dir.path()), Err(Error::Artifact { .. })));
}

#[test]
fn settings_of_a_run_are_refused_for_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    fixture::sweep(dir.path(), 1);
    let config = ReportConfig { projection: crate::analysis::Method::Pca, points: 20 };
    let refused = |config: &ReportConfig| {
        let options = ReportOptions { config: config.clone(), ..ReportOptions::default() };
        write_with(dir.path(), &options).map_err(|error| error.to_string())
    };
    let told = refused(&config).unwrap_err();
    assert!(
        told.contains("report.projection: has no effect") && told.contains("report.points: has no effect"),
        "{told}"
    );
    assert!(!dir.path().join(HTML).exists());
    refused(&ReportConfig::default()).unwrap();
}

#[test]
fn numbers_read_well() {
    assert_eq!(text::count(1234567), "1\u{202f}234\u{202f}567");
    assert_eq!(text::percent(f64::NAN, 1), "–");
    assert_eq!(text::points(Some(-0.0123)), "-1.2");
    assert_eq!(text::interval(Some(0.8), None), "");
}

/// The page of a folder that a fixture fills.
fn page_of(fill: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert_closed(&page);
    page
}

#[test]
fn a_latent_without_codes_has_no_section_of_codes_and_no_empty_table() {
    for latent in ["none", "noise", "mlp", "bias"] {
        let page = page_of(|dir| fixture::run(dir, &Sample { latent, codes: 0, ..sample() }));
        for words in [
            "The latent in training",
            "The codes",
            "codes in use",
            "code perplexity",
            "each code",
            "expected code vector",
        ] {
            assert!(!page.contains(words), "{latent}: {words}");
        }
        // The sources' accuracies and the provenance.
        assert_eq!(page.matches("<table").count(), 2, "{latent}");
        assert!(!page.contains("<tbody>\n</tbody>"), "{latent}");
        assert_eq!(page.contains("raises most: raised"), latent == "bias", "one vector for all is told in words");
    }
    let page = page_of(|dir| fixture::run(dir, &sample()));
    assert!(page.contains("<h2>The codes</h2>") && page.contains("expected code vector"));
}

#[test]
fn a_sweep_shows_no_usage_of_codes_for_cells_without() {
    let page = page_of(|dir| fixture::sweep(dir, 1));
    let usage = &page[page.find("<h2>Codes by source</h2>").unwrap()..];
    let usage = &usage[..usage.find("</section>").unwrap()];
    assert!(usage.contains("lpc, 8 codes") && !usage.contains("mlp") && !usage.contains("none"), "{usage}");
}

#[test]
fn a_sweep_shows_accuracy_by_source_and_links_the_pages_that_are_there() {
    let section = |page: &str, title: &str| {
        let rest = &page[page.find(&format!("<h2>{title}</h2>")).unwrap()..];
        rest[..rest.find("</section>").unwrap()].to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    fixture::sweep(dir.path(), 2);
    let page = || std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    let first = page();
    let found = section(&first, "Accuracy by source");
    // Three rates of noise, five lines each, three sources of which one is best.
    assert_eq!((found.matches("<table").count(), found.matches("<th scope=\"row\"").count()), (3, 15));
    assert!(found.contains("sharegpt") && found.contains("title=\"81 %\""), "{found}");
    assert!(section(&first, "Every run").contains("0 of 29 finished runs have one") && !first.contains("<a "));
    write(&dir.path().join("cells/dpo-lpc-k8-0.2-s1")).unwrap();
    let link = "<li><a href=\"cells/dpo-lpc-k8-0.2-s1/report.html\">";
    let second = page();
    assert_closed(&second);
    assert!(section(&second, "Every run").contains(link) && second.contains("1 of 29 finished runs have one"));
}

#[test]
fn a_sweep_shows_the_runs_of_its_table_each_once() {
    let dir = tempfile::tempdir().unwrap();
    fixture::sweep(dir.path(), 2);
    // Runs of an earlier, wider grid: another rate, another seed.
    for (p, seed) in [(0.3, 1), (0.2, 9)] {
        let cell = dir.path().join(format!("cells/dpo-none-k0-{p}-s{seed}"));
        fixture::run(&cell, &Sample { latent: "none", codes: 0, p, seed, accuracy: 0.11 });
        let noise = serde_json::json!({"kind": "uniform", "p": p, "marked": false, "seed": 0});
        let cell_of =
            serde_json::json!({"noise": noise, "objective": "dpo", "latent": "none", "codes": 0, "seed": seed});
        artifact::write_json(cell.join("cell.json"), &serde_json::json!({ "cell": cell_of })).unwrap();
    }
    let before = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    assert!(!before.contains("rate 0.3") && before.contains("0 of 29 finished runs have one"));
    // Runs without noise stand in the table for every kind, marker and seed of it.
    let path = dir.path().join("results.parquet");
    let mut results = artifact::read_parquet(&path).unwrap();
    let clean: Vec<bool> = results.column("noise_p").unwrap().f64().unwrap().iter().map(|p| p == Some(0.0)).collect();
    let mut again = results.filter(&BooleanChunked::from_iter_values("".into(), clean.into_iter())).unwrap();
    let n = again.height();
    again.with_column(Column::new("noise_kind".into(), vec!["source"; n])).unwrap();
    again.with_column(Column::new("marked".into(), vec![true; n])).unwrap();
    again.with_column(Column::new("noise_seed".into(), vec![5u64; n])).unwrap();
    results.vstack_mut(&again).unwrap();
    artifact::write_parquet(&path, &mut results).unwrap();
    let page = std::fs::read_to_string(write(dir.path()).unwrap()).unwrap();
    // 30 runs of 93 seconds.
    assert!(page.contains("Of 30 runs: 1 failed;") && page.contains("46 min"), "{n} rows more");
    let runs = |page: &str| page[page.find("<h2>Every run</h2>").unwrap()..].matches("<td>dpo</td>").count();
    assert_eq!(runs(&page), 30);
}

#[test]
fn there_is_an_interval_from_three_seeds_on() {
    let bars = |page: &str| page.matches("class=\"bar\"").count();
    let [one, two, three] = [1, 2, 3].map(|seeds| page_of(|dir| fixture::sweep(dir, seeds)));
    assert_eq!((bars(&one), bars(&two)), (0, 0));
    // Five lines at three rates; lpc with two sizes at three rates; the audit's five lines at two rates.
    assert_eq!(bars(&three), 15 + 6 + 10);
    assert!(two.contains("Fewer than three seeds give no interval."));
    assert!(one.contains("1 seed: no interval") && two.contains("2 seeds: no interval"));
    assert!(!three.contains("no interval"));
    assert!(three.contains("Bars are 95 % intervals over the seeds."));
    let head = "<th scope=\"col\" class=\"n\">95 % over seeds</th>";
    assert!(two.contains(head) && three.contains(head));
    assert!(two.matches("<circle").count() == three.matches("<circle").count(), "the points are the same");
}

#[test]
fn every_table_stands_in_a_named_scroll_container_under_its_caption() {
    for page in [
        page_of(|dir| {
            fixture::run(dir, &sample());
            fixture::posteriors(dir, true);
        }),
        page_of(|dir| fixture::sweep(dir, 3)),
    ] {
        let tables: Vec<_> = page.match_indices("<table").collect();
        assert!(tables.len() >= 4);
        for (at, _) in tables {
            let before = &page[..at];
            let open = &before[before.rfind("<div").unwrap()..];
            let name = open.strip_prefix("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"");
            let name = name.and_then(|rest| rest.strip_suffix("\">")).unwrap_or_else(|| panic!("{open}"));
            assert!(!name.is_empty());
            assert!(before.contains(&format!("<p class=\"cap\">{name}</p>\n{open}")), "{name}");
        }
        // A `caption` element would be as narrow as the table.
        assert!(!page.contains("<caption"));
    }
}

#[test]
fn the_main_chart_is_the_first_figure_and_alone_in_its_row() {
    let run = page_of(|dir| fixture::run(dir, &sample()));
    let sweep = page_of(|dir| fixture::sweep(dir, 3));
    for (page, title) in [(&run, "Preference accuracy"), (&sweep, "Accuracy: dpo, uniform noise")] {
        let first = page.find("<figure").unwrap();
        assert!(page[first..].starts_with(&format!("<figure class=\"main\">\n<figcaption>{title}</figcaption>")));
        assert!(first < page.find("<table").unwrap() && first < page.find("<div class=\"figures\">").unwrap());
    }
    // Without an accuracy the loss is the main chart.
    let page = page_of(|dir| std::fs::write(dir.join("metrics.jsonl"), "{\"step\":1,\"loss\":0.7}\n").unwrap());
    assert!(page.contains("<figure class=\"main\">\n<figcaption>Loss</figcaption>"));
}

#[test]
fn shades_are_named_by_hue_and_columns_without_a_value_are_left_out() {
    let page = page_of(|dir| fixture::sweep(dir, 3));
    let words = page.to_lowercase();
    let words = words.split("</style>").nth(1).unwrap();
    for scheme in ["dark", "light", "pale", "black", "white"] {
        assert!(!words.contains(scheme), "true in one colour scheme alone: {scheme}");
    }
    assert!(words.contains("the bluest cell is"));
    let table = page::Table {
        header: ["name", "a", "b"].map(String::from).to_vec(),
        rows: vec![vec!["".into(), "–".into(), "1".into()], vec!["".into(), "".into(), "–".into()]],
        text_columns: 1,
        ..page::Table::default()
    };
    let table = table.without_empty_columns();
    assert_eq!(table.header, ["name", "b"]);
    assert_eq!(table.rows, [["", "1"], ["", "–"]]);
}

#[test]
fn long_names_are_broken_or_shortened_with_the_whole_in_the_title() {
    let long = "org/preferences_of_the_helpfulness_only_subset-v2.3/part-00017-of-00128.jsonl";
    let page = page_of(|dir| {
        fixture::run(dir, &sample());
        let mut frame = artifact::read_parquet(dir.join("codes.parquet")).unwrap();
        frame.rename("usage_prior/sharegpt", format!("usage_prior/{long}").into()).unwrap();
        artifact::write_parquet(dir.join("codes.parquet"), &mut frame).unwrap();
        let summary = std::fs::read_to_string(dir.join("summary.json")).unwrap();
        let mut summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        summary["by_source"][0]["source"] = long.into();
        artifact::write_json(dir.join("summary.json"), &summary).unwrap();
    });
    let broken = "org/<wbr>preferences_<wbr>of_<wbr>the_<wbr>helpfulness_<wbr>only_<wbr>subset-<wbr>v2.<wbr>3/<wbr>part-\
                  <wbr>00017-<wbr>of-<wbr>00128.<wbr>jsonl";
    assert!(page.contains(&format!("<td class=\"long\" title=\"{long}\">{broken}</td>")));
    let row = format!("<th scope=\"row\" class=\"long\" title=\"{long}\">");
    let shown = &page[page.find(&row).unwrap() + row.len()..];
    let shown = shown[..shown.find("</th>").unwrap()].replace("<wbr>", "");
    assert_eq!(shown, "org/preferences_of_t…0017-of-00128.jsonl");
    assert!(page.contains("<td>sharegpt</td>"), "short names stay as they are");
}

/// Writes samples to look at into the folder that SAMPLE_REPORTS names, else into a temporary one.
#[test]
#[ignore = "writes pages to look at: `SAMPLE_REPORTS=DIR cargo test --release --lib sample_reports -- --ignored`"]
fn sample_reports() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("SAMPLE_REPORTS").map_or_else(|| temporary.path().into(), PathBuf::from);
    fixture::run(&dir.join("run"), &sample());
    fixture::posteriors(&dir.join("run"), true);
    fixture::prepared(&dir.join("run"), &dir.join("data"), "Some words of a text. ");
    fixture::sweep(&dir.join("sweep"), 3);
    fixture::sweep(&dir.join("sweep-of-two-seeds"), 2);
    for name in ["run", "sweep", "sweep-of-two-seeds"] {
        assert_closed(&std::fs::read_to_string(write(&dir.join(name)).unwrap()).unwrap());
    }
}
