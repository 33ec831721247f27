use proptest::prelude::*;

use super::*;
use crate::message::MessageColumnBuilder;
use crate::prompt;

fn joined(parts: &[&[Row]]) -> Option<Join> {
    let mut join = Join::default();
    parts.iter().for_each(|rows| join.add_frame(&frame(rows)).unwrap());
    Some(join)
}

/// What a tagger with these settings and this joined file makes of rows.
fn applied(config: &SourceConfig, joined: Option<Join>, rows: &[Row]) -> Tagged {
    Tagger::new(config, origins(), joined).unwrap().apply(frame(rows)).unwrap()
}

/// (file, prompt, own source)
type Row = (u32, &'static str, Option<&'static str>);

fn frame(rows: &[Row]) -> DataFrame {
    let mut prompts = MessageColumnBuilder::new(col::PROMPT, rows.len());
    rows.iter().for_each(|(_, prompt, _)| prompts.push([("system", "be brief"), ("user", *prompt)]));
    let prompts = prompts.finish().unwrap();
    let [normalized, groups] = prompt::columns(&prompts).unwrap();
    let columns = vec![
        UInt32Chunked::from_vec(col::FILE.into(), rows.iter().map(|r| r.0).collect()).into_column(),
        UInt64Chunked::from_vec(col::LINE.into(), (1..=rows.len() as u64).collect()).into_column(),
        StringChunked::from_iter_options(col::SOURCE.into(), rows.iter().map(|r| r.2)).into_column(),
        prompts,
        normalized,
        groups,
    ];
    DataFrame::new(rows.len(), columns).unwrap()
}

fn origins() -> Vec<Origin> {
    let origin =
        |stem: &str, tag: &str| Origin { label: format!("in/{stem}.jsonl"), stem: stem.into(), tag: tag.into() };
    vec![origin("first", ""), origin("second", "mixed")]
}

fn tags(frame: &DataFrame) -> Vec<String> {
    frame.column(col::SOURCE).unwrap().str().unwrap().iter().map(|t| t.unwrap().to_string()).collect()
}

fn config(change: impl FnOnce(&mut SourceConfig)) -> SourceConfig {
    let mut config = SourceConfig::default();
    change(&mut config);
    assert!(config.faults().is_empty(), "{:?}", config.faults());
    config
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

#[test]
fn a_tag_is_the_first_that_is_known() {
    let rules = strings(&["shout=contains:HEY", "early=prefix:what", "late=prefix:what is", "by-file=file:fir*"]);
    let config = config(|c| c.rules = rules);
    let raw = joined(&[&[(0, "What IS  joined?", Some("raw")), (0, "mute", None), (0, "blank", Some(" "))]]);
    let rows = [
        (0, "what is own?", Some("own")),
        (0, "what is joined?", None),
        (0, "what is this?", Some("")),
        (0, "oh, Hey  there", None),
        (0, "mute", None),
        (1, "what is joined?", Some("own")),
    ];
    let Tagged { frame, rejects, counts } = applied(&config, raw, &rows);
    assert_eq!(tags(&frame), ["own", "raw", "early", "shout", "by-file", "mixed"]);
    assert!(rejects.is_empty());
    let ways: Vec<(&str, u64)> = counts.tagged_by.iter().map(|(k, n)| (k.as_str(), *n)).collect();
    assert_eq!(ways, [("given", 1), ("join", 1), ("own", 1), ("rule", 3)]);
    assert_eq!(counts.join, Some(JoinCounts { rows: 3, without_source: 2, prompts: 1, conflicting_prompts: 0 }));
    let told = ["--source-rule late=prefix:what is: no row has got its source by it"];
    assert_eq!(counts.warnings(&config), told, "the rule before it takes all");
    assert_eq!(counts.faults(&config), vec![]);
    // Rules that tag no row, and sources that no row has.
    let idle = SourceConfig { rules: strings(&["x=prefix:nothing"]), ..config };
    let own = applied(&idle, None, &[(0, "a", Some("own"))]).counts;
    assert!(own.faults(&idle)[0].to_string().ends_with("has no effect: all 1 rows have a source already"));
    let none = applied(&idle, None, &[(0, "a", Some("own")), (0, "b", None)]).counts;
    assert!(none.faults(&idle)[0].to_string().ends_with("no rule fits any of the 1 rows that have no source"));
    let named = SourceConfig {
        exclude: strings(&["truthful_qa", "flan", "gone"]),
        keep: strings(&["flan"]),
        ..SourceConfig::default()
    };
    let counts = applied(&named, None, &[(0, "a", Some("own"))]).counts;
    let told = ["--keep-source flan: no row is from flan", "prepare.sources.exclude: no row is from gone"];
    assert_eq!(counts.warnings(&named), told);
    let counts = applied(&named, None, &[(0, "a", Some("Flan")), (0, "b", Some("gone"))]).counts;
    assert_eq!(counts.warnings(&named), Vec::<String>::new());
}

#[test]
fn one_tag_for_all_wins_and_the_file_is_the_last_resort() {
    let rows = [(0, "a", Some("own")), (1, "b", None), (7, "c", None)];
    let given = config(|c| c.tag = "mine".into());
    assert_eq!(tags(&applied(&given, None, &rows).frame), ["mine", "mine", "mine"]);
    let tagged = applied(&config(|_| ()), None, &rows).frame;
    assert_eq!(tags(&tagged), ["own", "mixed", ""], "an unknown file has no name");
}

#[test]
fn excluded_sources_go_and_are_told() {
    let rows = [(0, "a", Some("truthful_qa")), (0, "b", Some("flan")), (0, "c", Some("TruthfulQA")), (0, "d", None)];
    let raw = joined(&[&[(0, "D", Some("Truthful-QA"))]]);
    let Tagged { frame, rejects, counts } = applied(&config(|_| ()), raw, &rows);
    assert_eq!(tags(&frame), ["flan"]);
    assert_eq!(rejects.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!((rejects[0].reason, rejects[0].field.as_str()), ("excluded-source", "source"));
    assert_eq!(rejects[0].detail, "truthful_qa is used for evaluation; --keep-source truthful_qa keeps it");
    assert_eq!(rejects[0].group, prompt::group("a"));
    let told = "excluded 1 rows from truthful_qa (used for evaluation); --keep-source truthful_qa keeps them";
    let sentences = counts.sentences();
    assert!(sentences.len() == 3 && sentences.iter().any(|s| s == told), "{sentences:?}");
    let mut twice = counts.clone();
    twice += &counts;
    assert_eq!((twice.excluded["truthful_qa"], twice.join), (2, counts.join));

    let kept = applied(&config(|c| c.keep = strings(&["Truthful-QA"])), None, &rows);
    assert_eq!(tags(&kept.frame), ["truthful_qa", "flan", "TruthfulQA", "first"]);
    assert!(kept.rejects.is_empty());
    let counts = kept.counts;
    assert_eq!(counts.kept_on_request.values().sum::<u64>(), 2);
    assert!(counts.excluded.is_empty() && counts.sentences()[0].starts_with("kept 1 rows from "), "{counts:?}");

    assert_eq!(applied(&config(|c| c.exclude = Vec::new()), None, &rows).frame.height(), 4);
}

#[test]
fn the_user_is_told_what_cannot_be_told() {
    let config = config(|_| ());
    let warned = |rows: &[Row], raw: &[Row]| {
        let raw = if raw.is_empty() { None } else { joined(&[raw]) };
        applied(&config, raw, rows).counts.warnings(&config)
    };
    let silent = warned(&[(0, "a", None)], &[]);
    assert!(silent.len() == 1 && silent[0].contains("rows from truthful_qa could not be left out"), "{silent:?}");
    assert!(warned(&[(0, "a", Some("x"))], &[]).is_empty());
    let missed = warned(&[(0, "a", None)], &[(0, "b", Some("x")), (0, "b", Some("y"))]);
    assert!(missed[0].contains("no row has its prompt in the joined files"), "{missed:?}");
    assert!(missed[1].contains("1 prompts have more than one source"), "{missed:?}");
    let idle = warned(&[(0, "a", Some("x"))], &[(0, "b", Some("x"))]);
    assert!(idle.len() == 1 && idle[0].contains("no effect"), "{idle:?}");
}

#[test]
fn settings_without_effect_are_faults() {
    let keys = |change: &dyn Fn(&mut SourceConfig)| {
        let mut config = SourceConfig::default();
        change(&mut config);
        config.faults().into_iter().map(|f| f.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&|_| ()), Vec::<String>::new());
    assert_eq!(keys(&|c| c.rules = strings(&["x"])), ["prepare.sources.rules"]);
    assert_eq!(
        keys(&|c| {
            c.tag = "t".into();
            c.rules = strings(&["x=file:y"]);
            c.join = strings(&["raw.jsonl"]);
        }),
        ["prepare.sources.rules", "prepare.sources.join"]
    );
    assert_eq!(keys(&|c| c.tag = "TruthfulQA".into()), ["prepare.sources.tag"]);
    assert_eq!(keys(&|c| c.keep = strings(&["flan"])), ["prepare.sources.keep"]);
    assert_eq!(keys(&|c| c.exclude = strings(&[""])), ["prepare.sources.exclude"]);
    assert_eq!(keys(&|c| c.join = strings(&[" "])), ["prepare.sources.join"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_joined_rows_makes_no_difference(
        picks in prop::collection::vec((0usize..6, prop::option::of(0usize..4)), 1..30),
        turn in 0usize..30,
        cut in 0usize..30,
    ) {
        let prompts = ["a", "b", "c", "d", "e", "f"];
        let names = ["x", "y", "truthful_qa", "z"];
        let rows: Vec<Row> = picks.iter().map(|(p, s)| (0, prompts[*p], s.map(|s| names[s]))).collect();
        let all: Vec<Row> = prompts.iter().map(|p| (0, *p, None)).collect();
        let outcome = |parts: &[&[Row]]| {
            let Tagged { frame, rejects, counts } = applied(&SourceConfig::default(), joined(parts), &all);
            (tags(&frame), rejects, counts)
        };
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        let (head, tail) = turned.split_at(cut.min(turned.len()));
        prop_assert_eq!(outcome(&[&rows]), outcome(&[head, tail]));
    }
}
