use std::collections::BTreeSet;
use std::path::PathBuf;

use polars::prelude::*;

use super::*;
use crate::artifact;
use crate::ingest::OnBadRow;
use crate::message::MessageColumn;
use crate::noise::NoiseConfig;
use crate::pairs::Unusable;
use crate::pipeline::merge;
use crate::progress::Silent;
use crate::schema::{PAIR_COLUMNS, REJECT_COLUMNS, prepared};
use crate::token_file;

fn samples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples");
    ["ultrafeedback", "binarized", "trl_standard", "trl_conversational", "trl_implicit"]
        .map(|name| folder.join(format!("{name}.jsonl")).display().to_string())
        .to_vec()
}

/// Many rows with prompts that repeat in other spellings, duplicates, ties and broken lines.
fn corpus(dir: &Path) -> Vec<String> {
    let mut files = vec![String::new(); 3];
    for i in 0..300 {
        let prompt = if i % 5 == 0 { format!("  QUESTION   {} ", i / 2) } else { format!("question {}", i / 2) };
        let (high, low) = (i % 4, (i * 7) % 5);
        let row = format!(
            "{{\"source\":\"s{}\",\"instruction\":\"{prompt}\",\"completions\":[\
             {{\"model\":\"a\",\"response\":\"yes {high}\",\"overall_score\":{high}}},\
             {{\"model\":\"b\",\"response\":\"no {low}\",\"overall_score\":{low}}},\
             {{\"model\":\"c\",\"response\":\"\",\"overall_score\":1}}]}}\n",
            i % 2
        );
        files[i % 3] += &row;
        if i % 30 == 7 {
            files[(i + 1) % 3] += &row;
        }
        if i % 50 == 0 {
            files[i % 3] += "{\"source\": \n";
        }
    }
    let write = |(i, text): (usize, &String)| {
        let path = dir.join(format!("f{i}.jsonl"));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    files.iter().enumerate().map(write).collect()
}

fn config(input: Vec<String>, out: &Path) -> PrepareConfig {
    let mut config = PrepareConfig { input, out: out.display().to_string(), ..PrepareConfig::default() };
    config.ingest.on_bad_row = OnBadRow::Skip;
    config.pairs.test_fraction = 0.3;
    config.noise.flip_rate = 0.3;
    config
}

/// Prepares all of `n` shards; gives their folders.
fn in_shards(n: usize, config: &PrepareConfig, dir: &Path) -> Vec<PathBuf> {
    let shard = |i: usize| {
        let out = dir.join(format!("part {i}"));
        let (shard, text) = (format!("{i}/{n}"), out.display().to_string());
        run(&PrepareConfig { shard, out: text, ..config.clone() }, Seed(1), &Silent).unwrap();
        out
    };
    (1..=n).map(shard).collect()
}

fn pairs_of(out: &Path, split: &str) -> DataFrame {
    artifact::read_parquet(out.join(prepared::pairs(split))).unwrap()
}

fn texts(frame: &DataFrame, name: &str) -> Vec<String> {
    frame.column(name).unwrap().str().unwrap().iter().map(|t| t.unwrap().to_string()).collect()
}

/// Every data file by name, without the manifest, which has the clock in it.
fn bytes_of(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let names =
        ["pairs/train.parquet", "pairs/test.parquet", "tokens/train.arrow", "tokens/test.arrow", "rejects.parquet"];
    names.map(|n| (n.into(), std::fs::read(out.join(n)).unwrap())).to_vec()
}

#[test]
fn all_layouts_go_into_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let summary = run(&config(samples(), &out), Seed(1), &Silent).unwrap();
    assert_eq!((summary.rows_read, summary.rows_kept), (17, 17));
    assert_eq!(summary.unusable_completions, Unusable { empty_response: 1, unrated: 0 });
    let layouts: Vec<String> = summary.layouts.iter().map(|(layout, rows)| format!("{layout} {rows}")).collect();
    assert_eq!(layouts.join(", "), "binarized 3, trl 9, ultrafeedback 5");
    assert_eq!(Manifest::read(&out).unwrap().facts["layouts"], serde_json::to_value(&summary.layouts).unwrap());

    let (mut seen, mut flipped) = (BTreeSet::new(), 0);
    for split in SPLIT_NAMES {
        let frame = pairs_of(&out, split);
        let names: Vec<String> = frame.get_column_names().iter().map(|n| n.to_string()).collect();
        assert_eq!(names, PAIR_COLUMNS);
        let tokens = token_file::read(out.join(prepared::tokens(split))).unwrap();
        assert_eq!(tokens.iter().map(|t| t.id.clone()).collect::<Vec<_>>(), texts(&frame, "id"));
        assert_eq!(tokens.iter().map(|t| t.source.clone()).collect::<Vec<_>>(), texts(&frame, "source"));
        let flags: Vec<bool> = frame.column("flipped").unwrap().bool().unwrap().iter().flatten().collect();
        assert_eq!(tokens.iter().map(|t| t.flipped).collect::<Vec<_>>(), flags);
        flipped += flags.iter().filter(|f| **f).count();
        seen.extend(texts(&frame, "id"));
    }
    assert_eq!(seen.len(), 17);
    assert_eq!(summary.flipped as usize, flipped);

    let manifest = Manifest::read(&out).unwrap();
    assert_eq!(manifest.inputs.len(), 5);
    for file in &manifest.outputs {
        manifest.verify(&out, &file.path).unwrap();
    }
    let rejects = artifact::read_parquet(out.join(prepared::REJECTS)).unwrap();
    let names: Vec<String> = rejects.get_column_names().iter().map(|n| n.to_string()).collect();
    assert_eq!((names, rejects.height()), (REJECT_COLUMNS.map(str::to_string).to_vec(), 0));
}

const SPLIT_NAMES: [&str; 2] = crate::schema::SPLITS;

#[test]
fn every_row_is_accounted_for_and_prompts_are_on_one_side() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let summary = run(&config(corpus(dir.path()), &out), Seed(1), &Silent).unwrap();
    assert_eq!(summary.rows_read, 316);
    assert_eq!(summary.rows_read, summary.rows_kept + summary.rejects.values().sum::<u64>());
    assert_eq!(summary.rejects["bad-json"], 6);
    assert!(summary.rejects["all-tied"] > 0 && summary.rejects["duplicate"] > 0, "{:?}", summary.rejects);

    let rejects = artifact::read_parquet(out.join(prepared::REJECTS)).unwrap();
    for file in Manifest::read(&out).unwrap().inputs {
        let rejected: u64 = file.rows_rejected.values().sum();
        assert_eq!(file.rows_read, file.rows_kept + rejected);
        let listed = texts(&rejects, "file").iter().filter(|f| **f == file.path).count();
        assert_eq!(listed as u64, rejected);
    }
    let normalized = |split: &str| -> BTreeSet<String> {
        let prompts = MessageColumn::open(pairs_of(&out, split).column("prompt").unwrap()).unwrap();
        (0..prompts.len()).map(|i| crate::prompt::normalized(prompts.row(i))).collect()
    };
    let (train, test) = (normalized("train"), normalized("test"));
    assert!(!train.is_empty() && !test.is_empty());
    assert!(train.is_disjoint(&test));
}

#[test]
fn bytes_depend_on_neither_file_order_nor_threads() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = corpus(dir.path());
    let first = dir.path().join("first");
    run(&config(files.clone(), &first), Seed(1), &Silent).unwrap();
    for threads in [1, 3] {
        files.reverse();
        let again = dir.path().join(format!("with {threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&config(files.clone(), &again), Seed(1), &Silent)).unwrap();
        assert_eq!(bytes_of(&first), bytes_of(&again));
    }
    let other = dir.path().join("other");
    run(&config(files, &other), Seed(2), &Silent).unwrap();
    assert_ne!(bytes_of(&first), bytes_of(&other));
}

#[test]
fn merged_shards_are_the_whole_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(dir.path());
    let whole = dir.path().join("whole");
    let all = run(&config(files.clone(), &whole), Seed(1), &Silent).unwrap();
    let mut shards = in_shards(4, &config(files.clone(), &whole), dir.path());
    // The shards' rows, concatenated in order, are those of the unsharded run.
    for split in SPLIT_NAMES {
        let ids = |out: &PathBuf| texts(&pairs_of(out, split), "id");
        assert_eq!(shards.iter().flat_map(ids).collect::<Vec<_>>(), texts(&pairs_of(&whole, split), "id"));
    }
    let merged = dir.path().join("merged");
    shards.reverse();
    let summary = merge::run(&shards, &merged, &Silent).unwrap();
    assert!(bytes_of(&merged) == bytes_of(&whole));
    assert_eq!((summary.rows_read, &summary.rejects), (all.rows_read, &all.rejects));
    assert_eq!((summary.pairs, summary.flipped, &summary.totals.counts), (all.pairs, all.flipped, &all.totals.counts));
    let (a, b) = (Manifest::read(&merged).unwrap(), Manifest::read(&whole).unwrap());
    assert_eq!((a.inputs, a.facts["tokenizer"].clone()), (b.inputs, b.facts["tokenizer"].clone()));
    a.outputs.iter().for_each(|file| Manifest::read(&merged).unwrap().verify(&merged, &file.path).unwrap());

    let refused = |folders: &[PathBuf]| merge::run(folders, &dir.path().join("no"), &Silent).unwrap_err().to_string();
    assert!(refused(&shards[..3]).contains("shards are missing: 1/4"), "{}", refused(&shards[..3]));
    assert!(refused(std::slice::from_ref(&whole)).contains("not a shard"));
    assert!(refused(&[shards[0].clone(), shards[0].clone()]).contains("is in"));
    let within = merge::run(&shards, &shards[1], &Silent).unwrap_err();
    assert!(within.to_string().contains("an input of this command"), "{within}");
    let other = dir.path().join("other");
    run(&PrepareConfig { shard: "2/4".into(), ..config(files, &other) }, Seed(2), &Silent).unwrap();
    assert!(refused(&[shards[0].clone(), other]).contains("another seed"));
}

/// Asks to stop when it was asked often enough; keeps warnings.
struct Impatient(std::sync::atomic::AtomicI64, std::sync::Mutex<Vec<String>>);

impl Impatient {
    fn new(patience: i64) -> Impatient {
        Impatient(patience.into(), std::sync::Mutex::default())
    }
}

impl crate::progress::Progress for Impatient {
    fn warn(&self, line: &str) {
        self.1.lock().unwrap().push(line.to_string());
    }
    fn interrupted(&self) -> bool {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0
    }
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(dir.path());
    let whole = dir.path().join("whole");
    run(&config(files.clone(), &whole), Seed(1), &Silent).unwrap();
    let out = dir.path().join("out");
    let config = config(files.clone(), &out);
    let mut stops = 0;
    for patience in 0..20 {
        match run(&config, Seed(1), &Impatient::new(patience)) {
            Ok(_) => break,
            Err(e) => assert!(e.to_string().contains("interrupted"), "{e}"),
        }
        assert!(!out.join(prepared::MANIFEST).exists());
        stops += 1;
    }
    assert!(stops > 2, "{stops}");
    assert!(bytes_of(&out) == bytes_of(&whole));
    assert!(!out.join(work::FOLDER).exists());

    // Work for other settings is not resumed.
    assert!(run(&config, Seed(1), &Impatient::new(2)).is_err());
    let other = PrepareConfig { noise: NoiseConfig { flip_rate: 0.9, ..config.noise.clone() }, ..config.clone() };
    run(&other, Seed(1), &Silent).unwrap();
    let fresh = dir.path().join("fresh");
    run(&PrepareConfig { out: fresh.display().to_string(), ..other }, Seed(1), &Silent).unwrap();
    assert!(bytes_of(&out) == bytes_of(&fresh));
}

/// The settings with a tokenizer whose chat template refuses some of the corpus' prompts.
fn with_a_strict_template(dir: &Path, config: PrepareConfig) -> PrepareConfig {
    let folder = dir.join("tokenizer");
    ModelTokenizer::train_tiny(["question"].into_iter(), 300).unwrap().save(&folder).unwrap();
    let path = folder.join("tokenizer_config.json");
    let mut says: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let strict = "{% if '3' in messages[0].content %}{{ raise_exception('no threes') }}{% endif %}{% if 'no' in messages[0].content %}{{ raise_exception('never') }}{% endif %}";
    says["chat_template"] = format!("{strict}{}", says["chat_template"].as_str().unwrap()).into();
    artifact::write_json(path, &says).unwrap();
    PrepareConfig { tokenizer: folder.display().to_string(), ..config }
}

#[test]
fn rows_that_the_template_refuses_are_counted_the_same_in_shards_and_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(dir.path());
    let whole = dir.path().join("whole");
    let config = with_a_strict_template(dir.path(), config(files, &whole));
    let all = run(&config, Seed(1), &Silent).unwrap();
    let refused = all.rejects["template-refused"];
    assert!(refused > 20 && all.rows_kept > 20, "{:?}", all.rejects);
    assert_eq!((all.rows_read, all.rows_kept + all.rejects.values().sum::<u64>()), (316, 316));
    let rejects = artifact::read_parquet(whole.join(prepared::REJECTS)).unwrap();
    let rows = texts(&rejects, "reason").into_iter().zip(texts(&rejects, "file")).zip(texts(&rejects, "detail"));
    let rows: Vec<_> = rows.filter(|((reason, _), _)| reason == "template-refused").collect();
    assert_eq!(rows.len() as u64, refused);
    assert!(rows.iter().all(|((_, file), detail)| file.ends_with(".jsonl") && detail.contains("no threes")));

    let shards = in_shards(3, &config, dir.path());
    let merged = dir.path().join("merged");
    let summary = merge::run(&shards, &merged, &Silent).unwrap();
    assert!(bytes_of(&merged) == bytes_of(&whole));
    assert_eq!((summary.rows_read, &summary.rejects), (all.rows_read, &all.rejects));
    assert_eq!(Manifest::read(&merged).unwrap().inputs, Manifest::read(&whole).unwrap().inputs);

    let out = dir.path().join("out");
    let again = PrepareConfig { out: out.display().to_string(), ..config.clone() };
    let stops = (0..20).take_while(|patience| run(&again, Seed(1), &Impatient::new(*patience)).is_err()).count();
    assert!(stops > 2, "{stops}");
    assert!(bytes_of(&out) == bytes_of(&whole));
    assert_eq!(Manifest::read(&out).unwrap().inputs, Manifest::read(&whole).unwrap().inputs);
}

#[test]
fn shards_of_which_nothing_is_left_do_not_become_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jsonl");
    let row = |i: usize| format!("{{\"prompt\":\"3 {i}\",\"chosen\":\"a\",\"rejected\":\"b\"}}\n");
    std::fs::write(&file, (0..8).map(row).collect::<String>()).unwrap();
    let whole = dir.path().join("whole");
    let config = with_a_strict_template(dir.path(), config(vec![file.display().to_string()], &whole));
    let mut fail = config.clone();
    fail.ingest.on_bad_row = OnBadRow::Fail;
    let error = run(&fail, Seed(1), &Silent).unwrap_err();
    assert!(error.to_string().contains("x.jsonl: line 1: prompt: chat template chatml: no threes"), "{error}");
    assert_eq!(error.hint(), Some(ledger::OTHER_TEMPLATE), "it is no use to skip all rows");
    let error = run(&config, Seed(1), &Silent).unwrap_err();
    let said = "none of the 8 rows read gives a pair: 8 template-refused; ";
    assert!(
        error.to_string().contains(said)
            && error.to_string().contains("x.jsonl: line 1: prompt: chat template chatml: no threes"),
        "{error}"
    );
    let shards = in_shards(2, &config, dir.path());
    let error = merge::run(&shards, &whole, &Silent).unwrap_err();
    assert!(error.to_string().ends_with("none of the 8 rows read gives a pair: 8 template-refused"), "{error}");
    assert!(!whole.join(prepared::MANIFEST).exists());
}

#[test]
fn the_first_row_that_the_template_refuses_stops_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jsonl");
    let row = |n: usize, chosen: &str| format!("{{\"prompt\":\"p {n}\",\"chosen\":\"{chosen}\",\"rejected\":\"b\"}}\n");
    std::fs::write(&file, [row(1, "a"), row(2, "a"), row(33, "a"), row(4, "a"), row(53, "a")].concat()).unwrap();
    let out = dir.path().join("out");
    let mut config = with_a_strict_template(dir.path(), config(vec![file.display().to_string()], &out));
    config.ingest.on_bad_row = OnBadRow::Fail;
    let error = run(&config, Seed(1), &Silent).unwrap_err();
    assert!(error.to_string().contains("x.jsonl: line 3: prompt: chat template chatml: no threes"), "{error}");
    assert_eq!((error.hint(), error.exit_code(), out.exists()), (Some(crate::rejects::SKIP_ADVICE), 3, false));
    // Errors on a flipped pair name the sides as the input does.
    assert_eq!((part::given("chosen", true), part::given("rejected", true)), ("rejected", "chosen"));
    assert_eq!((part::given("chosen", false), part::given("prompt", true)), ("chosen", "prompt"));
}

#[test]
fn where_most_prompts_are_cut_it_is_told_with_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(dir.path());
    let warnings = |most: usize| {
        let mut config = PrepareConfig { dry_run: true, ..config(files.clone(), &dir.path().join("out")) };
        config.tokenize.max_prompt_length = most;
        let told = Impatient::new(1000);
        let summary = run(&config, Seed(1), &told).unwrap();
        let told = told.1.into_inner().unwrap();
        (summary, told.into_iter().filter(|line| line.contains("--max-prompt-length")).collect::<Vec<_>>())
    };
    assert_eq!(warnings(512).1, Vec::<String>::new());
    let (summary, told) = warnings(14);
    let cut = summary.totals.encoding;
    assert!(cut.prompts_cut * 2 > summary.pairs, "{cut:?} of {}", summary.pairs);
    assert_eq!(cut.prompts_cut, cut.prompts_cut_at_message + cut.prompts_cut_at_line + cut.prompts_cut_at_token);
    let share = format!("the prompts of {} of {} pairs", cut.prompts_cut, summary.pairs);
    assert!(told.len() == 1 && told[0].starts_with(&share) && told[0].contains("longer than 14 tokens"), "{told:?}");
}

#[test]
fn noise_changes_labels_only_and_is_nested() {
    let dir = tempfile::tempdir().unwrap();
    let files = corpus(dir.path());
    let at = |rate: f64| {
        let out = dir.path().join(format!("at {rate}"));
        let mut config = config(files.clone(), &out);
        config.noise.flip_rate = rate;
        config.noise.flip_marker = "[FLIP]".into();
        run(&config, Seed(1), &Silent).unwrap();
        pairs_of(&out, "train")
    };
    let (none, low, high) = (at(0.0), at(0.2), at(0.6));
    for name in ["id", "prompt_id", "source", "split"] {
        assert_eq!(texts(&none, name), texts(&high, name));
    }
    let flips = |f: &DataFrame| f.column("flipped").unwrap().bool().unwrap().iter().flatten().collect::<Vec<bool>>();
    assert!(flips(&none).iter().all(|f| !f));
    assert!(flips(&low).iter().zip(flips(&high)).all(|(l, h)| !l || h));
    assert!(flips(&low).iter().filter(|f| **f).count() > 0);
    let margins = |f: &DataFrame| f.column("margin").unwrap().f64().unwrap().iter().flatten().collect::<Vec<f64>>();
    for ((clean, noisy), flipped) in margins(&none).iter().zip(margins(&high)).zip(flips(&high)) {
        assert_eq!(noisy, if flipped { -clean } else { *clean });
    }
}

#[test]
fn a_failed_run_leaves_no_folder_that_looks_finished() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut config = config(corpus(dir.path()), &out);
    config.ingest.on_bad_row = OnBadRow::Fail;
    let error = run(&config, Seed(1), &Silent).unwrap_err();
    assert!(error.to_string().contains("f0.jsonl: line 2: not valid JSON"), "{error}");
    assert!(!out.exists(), "nothing is written before all is computed");

    config.ingest.on_bad_row = OnBadRow::Skip;
    run(&config, Seed(1), &Silent).unwrap();
    let _held = artifact::lock_folder(&out, "prepare").unwrap();
    assert_eq!(run(&config, Seed(1), &Silent).unwrap_err().exit_code(), 1);
    assert!(Manifest::read(&out).is_ok(), "a folder in use is not touched");
}

#[test]
fn a_dry_run_shows_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let wet = run(&config(samples(), &out), Seed(1), &Silent).unwrap();
    let config = PrepareConfig { dry_run: true, out: String::new(), ..config(samples(), &out) };
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    let dry = run(&config, Seed(1), &Silent).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
    assert_eq!(
        (&dry.totals.counts, dry.flipped, &dry.totals.tokens),
        (&wet.totals.counts, wet.flipped, &wet.totals.tokens)
    );
    assert!(dry.example["prompt"][0]["content"].is_string(), "{}", dry.example);
}

#[test]
fn all_faults_of_the_settings_are_told_at_once() {
    let mut config = PrepareConfig { shard: "2/1".into(), ..PrepareConfig::default() };
    config.noise.flip_rate = 2.0;
    config.pairs.test_fraction = f64::NAN;
    config.ingest.max_line_bytes = 0;
    let Err(Error::Config(faults)) = run(&config, Seed(1), &Silent) else { panic!("refused") };
    let keys: Vec<_> = faults.iter().map(|f| f.key.as_str()).collect();
    let wanted = ["input", "out", "shard", "ingest.max_line_bytes", "pairs.test_fraction", "noise.flip_rate"];
    assert_eq!(keys, wanted.map(|k| format!("prepare.{k}")));
}

#[test]
fn input_without_any_pair_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jsonl");
    std::fs::write(&file, "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"a\"}\n{\n").unwrap();
    let error = run(&config(vec![file.display().to_string()], &dir.path().join("o")), Seed(1), &Silent).unwrap_err();
    let wanted = "none of the 2 rows read gives a pair: 1 bad-json, 1 identical-responses";
    assert!(error.to_string().ends_with(wanted), "{error}");
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn the_settings_survive_their_own_text() {
    let text = toml::to_string(&PrepareConfig::default()).unwrap();
    assert_eq!(toml::from_str::<PrepareConfig>(&text).unwrap(), PrepareConfig::default());
}
