use proptest::prelude::*;

use super::order::tests::finished;
use super::*;
use crate::frame::list_of_structs;
use crate::message::Message;
use crate::rejects::reason;
use crate::schema::PAIR_COLUMNS;
use crate::settings::Settings;

pub(super) type Completion = (&'static str, &'static str, Option<f64>);

fn places(n: usize) -> [Column; 3] {
    [
        UInt32Chunked::full("file".into(), 0, n).into_column(),
        UInt64Chunked::from_vec("line".into(), (1..=n as u64).collect()).into_column(),
        StringChunked::full("source".into(), "s", n).into_column(),
    ]
}

fn users(prompts: &[&str]) -> [Column; 3] {
    let mut builder = MessageColumnBuilder::new("prompt", prompts.len());
    prompts.iter().for_each(|p| builder.push([("user", *p)]));
    let column = builder.finish().unwrap();
    let [normalized, groups] = prompt::columns(&column).unwrap();
    [column, normalized, groups]
}

pub(super) fn scored(rows: &[(&str, Vec<Completion>)]) -> DataFrame {
    let flat: Vec<Completion> = rows.iter().flat_map(|r| r.1.clone()).collect();
    let mut offsets = vec![0];
    for (_, completions) in rows {
        offsets.push(offsets[offsets.len() - 1] + completions.len() as i64);
    }
    let fields = [
        Series::new("model".into(), flat.iter().map(|c| c.0).collect::<Vec<_>>()),
        Series::new("response".into(), flat.iter().map(|c| c.1).collect::<Vec<_>>()),
        Series::new("score".into(), flat.iter().map(|c| c.2).collect::<Vec<_>>()),
    ];
    let mut columns = places(rows.len()).to_vec();
    columns.extend(users(&rows.iter().map(|r| r.0).collect::<Vec<_>>()));
    columns.push(list_of_structs("completions", offsets, &fields).unwrap());
    DataFrame::new(rows.len(), columns).unwrap()
}

pub(super) fn given(rows: &[(&str, &str, &str)]) -> DataFrame {
    let n = rows.len();
    let answers = |name: &str, texts: Vec<&str>| {
        let mut builder = MessageColumnBuilder::new(name, n);
        texts.iter().for_each(|t| builder.push([("assistant", *t)]));
        builder.finish().unwrap()
    };
    let mut columns = places(n).to_vec();
    columns.extend(users(&rows.iter().map(|r| r.0).collect::<Vec<_>>()));
    columns.push(answers("chosen", rows.iter().map(|r| r.1).collect()));
    columns.push(answers("rejected", rows.iter().map(|r| r.2).collect()));
    columns.push(Column::new("score_chosen".into(), vec![Some(1.0); n]));
    columns.push(Column::new("score_rejected".into(), vec![None::<f64>; n]));
    columns.push(Column::new("chosen_model".into(), vec![Some("m"); n]));
    columns.push(Column::new("rejected_model".into(), vec![None::<&str>; n]));
    DataFrame::new(n, columns).unwrap()
}

fn one(completions: Vec<Completion>, rule: PairRule, seed: u64) -> Built {
    let config = PairConfig { rule, ..PairConfig::default() };
    build(&scored(&[("p", completions)]), &config, Seed(seed)).unwrap()
}

fn texts(built: &Built) -> (String, String) {
    let open = |name: &str| MessageColumn::open(built.frame.column(name).unwrap()).unwrap().messages(0);
    assert_eq!(open("chosen").len(), 1);
    (open("chosen")[0].content.clone(), open("rejected")[0].content.clone())
}

/// Chosen and rejected texts of all pairs.
fn all_texts(frame: &DataFrame) -> Vec<(String, String)> {
    let open = |name: &str| {
        let column = MessageColumn::open(frame.column(name).unwrap()).unwrap();
        (0..column.len()).map(|i| column.messages(i)[0].content.clone()).collect::<Vec<_>>()
    };
    open("chosen").into_iter().zip(open("rejected")).collect()
}

/// All pairs as `CHOSEN>REJECTED`, sorted.
pub(super) fn shown(frame: &DataFrame) -> Vec<String> {
    let mut all: Vec<String> = all_texts(frame).into_iter().map(|(c, r)| format!("{c}>{r}")).collect();
    all.sort();
    all
}

/// Five completions: one alone on top, two tied, the top's text once more at the bottom.
fn five() -> Vec<Completion> {
    vec![
        ("a", "top", Some(9.0)),
        ("b", "mid", Some(5.0)),
        ("c", "mid too", Some(5.0)),
        ("d", "low", Some(1.0)),
        ("e", "top", Some(0.5)),
    ]
}

fn made(completions: Vec<Completion>, config: &PairConfig) -> Built {
    build(&scored(&[("p", completions)]), config, Seed(0)).unwrap()
}

fn lost(built: &Built) -> Vec<(&'static str, u64)> {
    built.dropped.iter().map(|(reason, n)| (*reason, *n)).collect()
}

fn refusal(built: &Built) -> (&'static str, &str) {
    assert_eq!((built.frame.height(), built.rejects.len()), (0, 1));
    (built.rejects[0].reason, &built.rejects[0].detail)
}

#[test]
fn best_against_worst() {
    let built = one(
        vec![("a", "mid", Some(5.0)), ("b", "low", Some(1.0)), ("c", "top", Some(9.0)), ("d", "low2", Some(2.0))],
        PairRule::BestVsWorst,
        0,
    );
    assert_eq!(texts(&built), ("top".into(), "low".into()));
    let names: Vec<String> = built.frame.get_column_names().iter().map(|n| n.to_string()).collect();
    assert_eq!(names[..17], PAIR_COLUMNS);
    let number = |name: &str| built.frame.column(name).unwrap().f64().unwrap().get(0);
    assert_eq!((number("score_chosen"), number("score_rejected"), number("margin")), (Some(9.0), Some(1.0), Some(8.0)));
    let text = |name: &str| built.frame.column(name).unwrap().str().unwrap().get(0).unwrap().to_string();
    assert_eq!((text("chosen_model"), text("rejected_model")), ("c".into(), "b".into()));
    assert_eq!(
        (text("pair_rule"), text("noise_kind"), text("source")),
        ("best-vs-worst".into(), "none".into(), "s".into())
    );
}

#[test]
fn best_against_random_reaches_all_lower_ones_and_no_other() {
    let completions =
        vec![("a", "top", Some(9.0)), ("b", "x", Some(1.0)), ("c", "y", Some(5.0)), ("d", "also top", Some(9.0))];
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..200 {
        let (chosen, rejected) = texts(&one(completions.clone(), PairRule::BestVsRandom, seed));
        *seen.entry((chosen, rejected)).or_insert(0) += 1;
    }
    let pairs: Vec<_> = seen.keys().map(|(c, r)| (c.as_str(), r.as_str())).collect();
    assert_eq!(pairs.len(), 2, "{pairs:?}");
    assert!(pairs.iter().all(|(c, r)| *c == pairs[0].0 && ["x", "y"].contains(r)));
    // Five standard deviations of Binomial(200, 1/2).
    assert!(seen.values().all(|n| (65..=135).contains(n)), "{seen:?}");
}

#[test]
fn rows_without_a_preference_are_refused_with_a_reason() {
    let rule = PairRule::BestVsRandom;
    let tied = one(vec![("a", "x", Some(5.0)), ("b", "y", Some(5.0))], rule, 0);
    assert_eq!(refusal(&tied), (reason::ALL_TIED, "all completions have the score 5"));
    let few = one(vec![("a", "x", Some(5.0)), ("b", " \n", Some(1.0)), ("c", "z", None)], rule, 0);
    assert_eq!(
        refusal(&few),
        (reason::TOO_FEW_COMPLETIONS, "1 of 3 completions have a response and a score; 2 are needed")
    );
    assert_eq!(few.unusable, Unusable { empty_response: 1, unrated: 1 });
    for rule in [rule, PairRule::BestVsWorst] {
        let same = one(vec![("a", "x", Some(5.0)), ("b", "x", Some(1.0))], rule, 0);
        assert_eq!(refusal(&same).0, reason::IDENTICAL_RESPONSES);
        let spare = one(vec![("a", "x", Some(5.0)), ("b", "x", Some(1.0)), ("c", "z", Some(2.0))], rule, 0);
        assert_eq!(texts(&spare), ("x".into(), "z".into()));
    }
}

#[test]
fn given_pairs_keep_their_label() {
    let frame = given(&[("p", "a", "b"), ("p", "a", "a"), ("p", "a", "  "), ("p", "", "b")]);
    let built = build(&frame, &PairConfig::default(), Seed(0)).unwrap();
    let found: Vec<_> = built.rejects.iter().map(|r| (r.line, r.reason, r.field.as_str())).collect();
    let empty = reason::EMPTY_RESPONSE;
    assert_eq!(found, [(2, reason::IDENTICAL_RESPONSES, "rejected"), (3, empty, "rejected"), (4, empty, "chosen")]);
    assert_eq!(texts(&built), ("a".into(), "b".into()));
    assert_eq!(built.frame.column("pair_rule").unwrap().str().unwrap().get(0), Some("given"));
    assert_eq!(built.frame.column("margin").unwrap().null_count(), 1);
    assert_eq!(built.frame.column("chosen_model").unwrap().str().unwrap().get(0), Some("m"));
}

#[test]
fn scored_and_given_pairs_of_the_same_texts_have_the_same_id() {
    let scored = one(vec![("a", "x", Some(5.0)), ("b", "y", Some(1.0))], PairRule::BestVsRandom, 0);
    let given = build(&given(&[("p", "x", "y")]), &PairConfig::default(), Seed(0)).unwrap();
    for name in ["id", "prompt_id", "split", "group"] {
        assert!(scored.frame.column(name).unwrap().equals(given.frame.column(name).unwrap()), "{name}");
    }
}

#[test]
fn fractions_of_nothing_and_all() {
    let frame = given(&[("p", "a", "b"), ("q", "a", "b")]);
    let splits = |test_fraction| {
        let config = PairConfig { test_fraction, ..PairConfig::default() };
        let built = build(&frame, &config, Seed(0)).unwrap();
        built.frame.column("split").unwrap().str().unwrap().iter().map(|s| s.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(splits(0.0), ["train", "train"]);
    assert_eq!(splits(1.0), ["test", "test"]);
    let bad = PairConfig { test_fraction: -0.1, ..PairConfig::default() };
    assert_eq!(bad.faults()[0].to_string(), "prepare.pairs.test_fraction: must be between 0 and 1, got -0.1");
}

fn completions() -> impl Strategy<Value = Vec<Completion>> {
    let model = prop::sample::select(vec!["a", "b", "c"]);
    let response = prop::sample::select(vec!["", " ", "x", "y", "z", "w"]);
    let score = prop::option::weighted(0.9, prop::sample::select(vec![1.0, 2.0, 3.0]));
    prop::collection::vec((model, response, score), 0..6)
}

pub(super) fn settings() -> impl Strategy<Value = PairConfig> {
    let rule = prop::sample::select(vec![
        PairRule::BestVsRandom,
        PairRule::BestVsWorst,
        PairRule::BestVsEach,
        PairRule::AllPairs,
    ]);
    let ties = prop::sample::select(vec![Ties::Drop, Ties::Break]);
    let dedup = prop::sample::select(vec![Dedup::Exact, Dedup::Normalized, Dedup::None]);
    let conflicts = prop::sample::select(vec![Conflicts::Keep, Conflicts::Drop, Conflicts::KeepHigherMargin]);
    let margin = prop::sample::select(vec![0.0, 1.0, 1.5]);
    (rule, ties, dedup, conflicts, margin, 0usize..4).prop_map(|(rule, ties, dedup, conflicts, margin, cap)| {
        let min_margin = if ties == Ties::Drop { margin } else { 0.0 };
        let base = PairConfig { test_fraction: 0.4, ..PairConfig::default() };
        PairConfig { rule, ties, dedup, conflicts, min_margin, max_per_prompt: cap, ..base }
    })
}

/// Prompt, chosen, rejected, their scores.
pub(super) type GivenRow = (&'static str, &'static str, &'static str, Option<f64>, Option<f64>);

pub(super) fn given_scored(rows: &[GivenRow]) -> DataFrame {
    let mut frame = given(&rows.iter().map(|r| (r.0, r.1, r.2)).collect::<Vec<_>>());
    frame.with_column(Column::new("score_chosen".into(), rows.iter().map(|r| r.3).collect::<Vec<_>>())).unwrap();
    frame.with_column(Column::new("score_rejected".into(), rows.iter().map(|r| r.4).collect::<Vec<_>>())).unwrap();
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_place_in_the_list_does_not_matter(
        (list, shuffled) in completions().prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle())),
        seed in any::<u64>(),
        config in settings(),
    ) {
        let made = |list: Vec<Completion>| build(&scored(&[("p", list)]), &config, Seed(seed)).unwrap();
        let (a, b) = (made(list.clone()), made(shuffled));
        prop_assert!(a.frame.equals_missing(&b.frame));
        prop_assert_eq!(&a.rejects, &b.rejects);
        prop_assert_eq!(&a.dropped, &b.dropped);
        prop_assert_eq!(a.rejects.len(), usize::from(a.frame.height() == 0));
        prop_assert!(a.frame.height() <= 1 || config.rule == PairRule::BestVsEach || config.rule == PairRule::AllPairs);
        let margins = a.frame.column("margin").unwrap().f64().unwrap();
        let least = if config.ties == Ties::Break { 0.0 } else { f64::MIN_POSITIVE };
        for (i, (chosen, rejected)) in all_texts(&a.frame).into_iter().enumerate() {
            prop_assert!(margins.get(i).is_some_and(|m| m >= least.max(config.min_margin)));
            prop_assert!(chosen != rejected && !chosen.trim().is_empty() && !rejected.trim().is_empty());
        }
        // The pairs that are kept and those that are counted as dropped are all pairs of the rule.
        let usable: Vec<_> = list.iter().filter(|c| !c.1.trim().is_empty()).filter_map(|c| c.2.map(|s| (c.1, s))).collect();
        if a.frame.height() > 0 && config.rule == PairRule::AllPairs {
            let lost: u64 = a.dropped.values().sum();
            prop_assert_eq!(a.frame.height() + lost as usize, usable.len() * (usable.len() - 1) / 2);
        }
    }

    #[test]
    fn copies_of_a_prompt_stay_together(words in prop::collection::vec("[a-zA-Z\u{e4}\u{c4}]{1,4}", 1..5), seed in any::<u64>()) {
        let plain = words.join(" ");
        let odd = format!("\n {} ", words.join(" \t\u{a0}")).to_uppercase();
        prop_assume!(odd.to_lowercase().split_whitespace().eq(plain.to_lowercase().split_whitespace()));
        let config = PairConfig { test_fraction: 0.5, ..PairConfig::default() };
        let built = build(&given(&[(&plain, "a", "b"), (&odd, "a", "b")]), &config, Seed(seed)).unwrap();
        for name in ["split", "group"] {
            let column = built.frame.column(name).unwrap();
            prop_assert!(column.slice(0, 1).equals(&column.slice(1, 1)));
        }
    }
}

#[test]
fn message_lists_stay_lists() {
    let frame = given(&[("p", "a", "b")]);
    let built = build(&frame, &PairConfig::default(), Seed(0)).unwrap();
    let prompt = MessageColumn::open(built.frame.column("prompt").unwrap()).unwrap();
    assert_eq!(prompt.messages(0), [Message::user("p")]);
}

#[test]
fn one_text_listed_twice_with_two_scores() {
    // Found by the property above: the same model's text, scored twice.
    let list = vec![("a", "y", Some(2.0)), ("b", "w", Some(3.0)), ("a", "y", Some(1.0))];
    let turned: Vec<_> = list.iter().rev().copied().collect();
    for seed in 0..20 {
        let (a, b) =
            (one(list.clone(), PairRule::BestVsRandom, seed), one(turned.clone(), PairRule::BestVsRandom, seed));
        assert!(a.frame.equals_missing(&b.frame), "seed {seed}");
    }
}

#[test]
fn best_against_each() {
    let config = PairConfig { rule: PairRule::BestVsEach, ..PairConfig::default() };
    let built = made(five(), &config);
    assert_eq!(shown(&built.frame), ["top>low", "top>mid", "top>mid too"]);
    assert_eq!(lost(&built), []);
    let number = |name: &str| {
        let mut all: Vec<_> = built.frame.column(name).unwrap().f64().unwrap().iter().flatten().collect();
        all.sort_by(f64::total_cmp);
        all
    };
    assert_eq!((number("margin"), number("score_rejected")), (vec![4.0, 4.0, 8.0], vec![1.0, 5.0, 5.0]));
    for name in ["pair_rule", "prompt_id", "source", "line", "group"] {
        assert_eq!(built.frame.column(name).unwrap().n_unique().unwrap(), 1, "{name}");
    }
    assert_eq!(built.frame.column("id").unwrap().n_unique().unwrap(), 3);
    // A completion that is as good as the best is not rejected against it.
    let tied = made(vec![("a", "x", Some(5.0)), ("b", "y", Some(5.0)), ("c", "z", Some(1.0))], &config);
    assert_eq!((tied.frame.height(), lost(&tied)), (1, vec![(reason::TIED_SCORES, 1)]));
    let near = PairConfig { min_margin: 4.5, ..config };
    let built = made(five(), &near);
    assert_eq!((shown(&built.frame), lost(&built)), (vec!["top>low".to_string()], vec![(reason::SMALL_MARGIN, 2)]));
}

#[test]
fn all_ordered_pairs() {
    let config = PairConfig { rule: PairRule::AllPairs, ..PairConfig::default() };
    let built = made(five(), &config);
    let wanted = ["low>top", "mid too>low", "mid too>top", "mid>low", "mid>top", "top>low", "top>mid", "top>mid too"];
    assert_eq!(shown(&built.frame), wanted);
    assert_eq!(lost(&built), [(reason::IDENTICAL_RESPONSES, 1), (reason::TIED_SCORES, 1)]);
    // The same texts ranked both ways within one row contradict each other.
    let done = finished(vec![built.frame]);
    assert_eq!((done.frame.height(), done.conflicts), (8, 6));
    let near = made(five(), &PairConfig { min_margin: 4.25, ..config.clone() });
    assert_eq!(shown(&near.frame), ["mid too>top", "mid>top", "top>low"]);
    assert_eq!(lost(&near).into_iter().find(|l| l.0 == reason::SMALL_MARGIN), Some((reason::SMALL_MARGIN, 5)));
    let models: Vec<String> = (0..257).map(|i| format!("answer {i}")).collect();
    let texts: Vec<&'static str> =
        models.iter().map(|m| -> &'static str { Box::leak(m.clone().into_boxed_str()) }).collect();
    let many: Vec<Completion> = texts.iter().enumerate().map(|(i, t)| ("m", *t, Some(i as f64))).collect();
    assert_eq!(made(many[..256].to_vec(), &config).frame.height(), 256 * 255 / 2);
    let refused = made(many, &config);
    assert_eq!(refusal(&refused), (reason::TOO_MANY_COMPLETIONS, "257 completions; all-pairs takes up to 256"));
}

#[test]
fn every_rule_refuses_for_the_same_reasons() {
    for rule in [PairRule::BestVsRandom, PairRule::BestVsWorst, PairRule::BestVsEach, PairRule::AllPairs] {
        let config = PairConfig { rule, ..PairConfig::default() };
        let why = |list: Vec<Completion>, config: &PairConfig| refusal(&made(list, config)).0;
        assert_eq!(why(vec![("a", "x", Some(1.0)), ("b", "y", Some(1.0))], &config), reason::ALL_TIED);
        assert_eq!(why(vec![("a", "x", Some(1.0)), ("b", "y", None)], &config), reason::TOO_FEW_COMPLETIONS);
        assert_eq!(why(vec![("a", "x", Some(1.0)), ("b", "x", Some(2.0))], &config), reason::IDENTICAL_RESPONSES);
        let near = PairConfig { min_margin: 2.0, ..config };
        let list = vec![("a", "x", Some(1.0)), ("b", "y", Some(2.5)), ("c", "z", Some(2.0))];
        let refused = made(list, &near);
        let words = "the scores 2.5 and 1 are closer than --min-margin 2";
        assert_eq!(refusal(&refused), (reason::SMALL_MARGIN, words), "{rule:?}");
    }
}

#[test]
fn the_random_one_is_drawn_from_those_far_enough() {
    let config = PairConfig { min_margin: 4.0, ..PairConfig::default() };
    let list =
        vec![("a", "top", Some(9.0)), ("b", "near", Some(5.5)), ("c", "far", Some(5.0)), ("d", "farther", Some(1.0))];
    let seen: std::collections::BTreeSet<String> =
        (0..60).map(|seed| texts(&build(&scored(&[("p", list.clone())]), &config, Seed(seed)).unwrap()).1).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["far", "farther"]);
}

#[test]
fn ties_can_be_broken_by_hash() {
    let config = |rule| PairConfig { rule, ties: Ties::Break, ..PairConfig::default() };
    let list = vec![("a", "x", Some(5.0)), ("b", "y", Some(5.0)), ("c", "z", Some(5.0))];
    let mut winners = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let made = |rule| build(&scored(&[("p", list.clone())]), &config(rule), Seed(seed)).unwrap();
        let all = made(PairRule::AllPairs);
        assert_eq!((all.frame.height(), lost(&all)), (3, vec![]));
        let each = made(PairRule::BestVsEach);
        assert_eq!(each.frame.height(), 2);
        let (best, _) = texts(&each);
        assert!(all_texts(&all.frame).iter().filter(|(chosen, _)| *chosen == best).count() == 2, "one order");
        assert_eq!(texts(&made(PairRule::BestVsRandom)).0, best);
        assert_eq!(each.frame.column("margin").unwrap().f64().unwrap().get(0), Some(0.0));
        winners.insert(best);
    }
    assert_eq!(winners.len(), 3, "no text wins by itself");
}

#[test]
fn given_pairs_go_where_the_settings_say_so() {
    let rows: [GivenRow; 5] = [
        ("p", "a", "b", Some(2.0), Some(2.0)),
        ("q", "a", "b", Some(2.0), Some(1.5)),
        ("r", "a", "b", Some(2.0), None),
        ("s", "a", "b", Some(1.0), Some(3.0)),
        ("t", "a", "b", Some(4.0), Some(1.0)),
    ];
    let found = |config: PairConfig| -> Vec<(u64, &'static str)> {
        let built = build(&given_scored(&rows), &config, Seed(0)).unwrap();
        assert_eq!(built.frame.height() + built.rejects.len(), 5);
        built.rejects.iter().map(|r| (r.line, r.reason)).collect()
    };
    assert_eq!(found(PairConfig::default()), []);
    let near = reason::SMALL_MARGIN;
    let wide = PairConfig { min_margin: 1.0, ..PairConfig::default() };
    assert_eq!(found(wide.clone()), [(1, near), (2, near), (4, near)]);

    // Those that stay although their scores do not support the label are counted.
    let counts = [0..1, 1..3, 3..4, 4..5].map(|some| {
        let built = build(&given_scored(&rows[some]), &PairConfig::default(), Seed(0)).unwrap();
        (built.unsupported.negative_margin, built.unsupported.zero_margin)
    });
    assert_eq!(counts, [(0, 1), (0, 0), (1, 0), (0, 0)]);
    let built = build(&given_scored(&rows), &PairConfig::default(), Seed(0)).unwrap();
    let said = built.unsupported.warning().unwrap();
    assert!(said.contains("chosen has the lower score in 1, the same score in 1; they are kept"), "{said}");
    let built = build(&given_scored(&rows), &wide, Seed(0)).unwrap();
    assert_eq!((built.unsupported, built.unsupported.warning()), (Unsupported::default(), None));
    let details: Vec<&str> = built.rejects.iter().map(|r| r.detail.as_str()).collect();
    assert_eq!(details[0], "the scores 2 and 2 are closer than --min-margin 1");
    assert_eq!(details[2], "the score 1 of chosen is below 3, that of rejected (--min-margin 1)");
}

#[test]
fn what_the_input_says_of_its_labels_comes_along() {
    let mut tagged = scored(&[("p", five()), ("q", vec![("a", "x", Some(1.0)), ("b", "x", Some(2.0))]), ("r", five())]);
    tagged.with_column(Column::new("annotator".into(), [Some("ann"), Some("bob"), None])).unwrap();
    tagged.with_column(Column::new("flip_probability".into(), [None, Some(0.5), Some(0.25)])).unwrap();
    tagged.with_column(Column::new("weight".into(), [Some(2.0), Some(3.0), None])).unwrap();
    let config = PairConfig { rule: PairRule::BestVsEach, ..PairConfig::default() };
    let tagged = build(&tagged, &config, Seed(0)).unwrap().frame;
    let plain = build(&given(&[("s", "a", "b")]), &config, Seed(0)).unwrap().frame;
    for frame in [&tagged, &plain] {
        let names: Vec<String> = frame.get_column_names().iter().map(|n| n.to_string()).collect();
        assert_eq!(names, [&PAIR_COLUMNS[..], &crate::schema::CARRIED_COLUMNS[..]].concat());
    }
    let all = finished(vec![plain, tagged]).frame;
    let mut found: Vec<(u64, Option<String>, [Option<f64>; 2])> = (0..all.height())
        .map(|i| {
            let line = all.column("line").unwrap().u64().unwrap().get(i).unwrap();
            let annotator = all.column("annotator").unwrap().str().unwrap().get(i).map(str::to_string);
            let number = |name: &str| all.column(name).unwrap().f64().unwrap().get(i);
            (line, annotator, [number("flip_probability"), number("weight")])
        })
        .collect();
    found.sort_by(|a, b| a.partial_cmp(b).unwrap());
    // All pairs of a prompt have the weight of its row.
    let ann = || (1, Some("ann".to_string()), [None, Some(2.0)]);
    let (given, none) = ((1, None, [None, None]), (3, None, [Some(0.25), None]));
    assert_eq!(found, [given, ann(), ann(), ann(), none.clone(), none.clone(), none]);
}

#[test]
fn faults_of_margins_and_ties() {
    let faults = |config: PairConfig| config.faults().iter().map(ToString::to_string).collect::<Vec<_>>();
    let odd = PairConfig { min_margin: -1.0, ..PairConfig::default() };
    assert_eq!(faults(odd), ["prepare.pairs.min_margin: must be 0 or more, got -1"]);
    assert_eq!(faults(PairConfig { min_margin: f64::NAN, ..PairConfig::default() }).len(), 1);
    let both = PairConfig { min_margin: 1.0, ties: Ties::Break, ..PairConfig::default() };
    assert!(faults(both)[0].starts_with("prepare.pairs.ties: has no effect"));
}
