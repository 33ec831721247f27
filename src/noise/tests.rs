use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::message::Message;
use crate::settings::Settings;
use FlipKind as K;

pub(super) const KINDS: [K; 8] =
    [K::Uniform, K::Margin, K::Length, K::Source, K::Annotator, K::Column, K::Ambiguous, K::WeakQuality];

/// A pair of a test; its responses have these lengths.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub source: &'static str,
    pub scores: Option<(f64, f64)>,
    pub lengths: (usize, usize),
    pub annotator: Option<&'static str>,
    pub given: Option<f64>,
}

pub(super) const PLAIN: Row =
    Row { source: "s", scores: Some((2.0, 1.0)), lengths: (3, 3), annotator: None, given: None };

pub(super) fn frame(rows: &[Row]) -> DataFrame {
    let n = rows.len();
    let texts = |name: &str, get: &dyn Fn(usize) -> String| {
        let mut builder = MessageColumnBuilder::new(name, n);
        for i in 0..n {
            let text = get(i);
            builder.push([("system", "s"), ("user", text.as_str()), ("assistant", "x")]);
        }
        builder.finish().unwrap()
    };
    let answers = |name: &str, letter: &str, get: &dyn Fn(&Row) -> usize| {
        let mut builder = MessageColumnBuilder::new(name, n);
        for row in rows {
            builder.push([("assistant", letter.repeat(get(row)).as_str())]);
        }
        builder.finish().unwrap()
    };
    let numbers = |name: &str, get: &dyn Fn(&Row) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(get).collect::<Vec<Option<f64>>>())
    };
    let constant = |name: &str, x: &str| Column::new(name.into(), vec![x; n]);
    let columns = vec![
        Column::new("id".into(), (0..n).map(|i| format!("{i:032x}")).collect::<Vec<_>>()),
        Column::new("source".into(), rows.iter().map(|r| r.source).collect::<Vec<_>>()),
        Column::new("split".into(), (0..n).map(|i| if i % 4 == 0 { "test" } else { "train" }).collect::<Vec<_>>()),
        texts("prompt", &|i| format!("p{i}")),
        answers("chosen", "\u{e7}", &|r| r.lengths.0),
        answers("rejected", "r", &|r| r.lengths.1),
        numbers("score_chosen", &|r| r.scores.map(|s| s.0)),
        numbers("score_rejected", &|r| r.scores.map(|s| s.1)),
        numbers("margin", &|r| r.scores.map(|s| s.0 - s.1)),
        constant("chosen_model", "good"),
        constant("rejected_model", "bad"),
        BooleanChunked::full("flipped".into(), false, n).into_column(),
        constant("noise_kind", "none"),
        Column::new("noise_p".into(), vec![0.0; n]),
        Column::new("annotator".into(), rows.iter().map(|r| r.annotator).collect::<Vec<Option<&str>>>()),
        numbers("flip_probability", &|r| r.given),
    ];
    DataFrame::new(n, columns).unwrap()
}

/// `n` pairs of all sorts.
pub(super) fn mixed(n: usize) -> DataFrame {
    let seed = Seed(77);
    let rows: Vec<Row> = (0..n)
        .map(|i| {
            let key = i.to_string();
            let pick = |purpose: &str, n: usize| seed.index(purpose, &key, n);
            let chosen = pick("score", 5) as f64;
            let below = pick("gap", 4) as f64 - 0.5;
            Row {
                source: ["a", "b", "c"][pick("source", 3)],
                scores: (pick("scored", 8) > 0).then_some((chosen, chosen - below)),
                lengths: (1 + pick("long", 30), 1 + pick("wide", 30)),
                annotator: [Some("ann"), Some("bob"), Some("cid"), None][pick("annotator", 4)],
                given: [Some(0.0), Some(0.3), Some(1.0), None][pick("given", 4)],
            }
        })
        .collect();
    frame(&rows)
}

/// Valid settings of a kind.
pub(super) fn at(kind: K, rate: f64) -> NoiseConfig {
    let texts = |lines: &[&str]| lines.iter().map(|l| l.to_string()).collect();
    NoiseConfig {
        flip_rate: rate,
        flip_kind: kind,
        source_rates: if kind == K::Source { texts(&["a=0.5", "*=0.1"]) } else { Vec::new() },
        selected: if kind.selects() { Selected::Flip } else { Selected::Keep },
        ..NoiseConfig::default()
    }
}

pub(super) fn plan(frame: &DataFrame, config: &NoiseConfig, seed: u64) -> NoisePlan {
    let mut survey = NoiseSurvey::new(config, Seed(seed));
    survey.add(frame).unwrap();
    survey.finish().unwrap()
}

fn noisy(frame: &DataFrame, config: &NoiseConfig, seed: u64) -> DataFrame {
    apply(frame.clone(), config, &plan(frame, config, seed), Seed(seed)).unwrap()
}

pub(super) fn flipped(frame: &DataFrame) -> Vec<bool> {
    frame.column("flipped").unwrap().bool().unwrap().iter().flatten().collect()
}

pub(super) fn numbers(frame: &DataFrame, name: &str) -> Vec<f64> {
    frame.column(name).unwrap().f64().unwrap().iter().map(|x| x.unwrap_or(f64::NAN)).collect()
}

fn words(frame: &DataFrame, name: &str) -> Vec<String> {
    frame.column(name).unwrap().str().unwrap().iter().map(|t| t.unwrap_or("").to_string()).collect()
}

fn texts(frame: &DataFrame, name: &str) -> Vec<Vec<Message>> {
    let open = MessageColumn::open(frame.column(name).unwrap()).unwrap();
    (0..open.len()).map(|i| open.messages(i)).collect()
}

/// Probabilities of a flip of some pairs.
pub(super) fn chances(rows: &[Row], config: &NoiseConfig) -> Vec<f64> {
    numbers(&noisy(&frame(rows), config, 1), "noise_p")
}

fn close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} for {wanted:?}");
}

#[test]
fn a_flip_swaps_everything_that_belongs_to_a_side() {
    let clean = frame(&[PLAIN, Row { lengths: (1, 2), ..PLAIN }, Row { scores: None, ..PLAIN }]);
    let noisy = noisy(&clean, &at(K::Uniform, 1.0), 1);
    assert_eq!(texts(&noisy, "chosen"), texts(&clean, "rejected"));
    assert_eq!(texts(&noisy, "rejected"), texts(&clean, "chosen"));
    assert_eq!(texts(&noisy, "prompt"), texts(&clean, "prompt"));
    let number = |name: &str, i| noisy.column(name).unwrap().f64().unwrap().get(i);
    assert_eq!((number("score_chosen", 0), number("score_rejected", 0)), (Some(1.0), Some(2.0)));
    assert_eq!((number("margin", 0), number("margin", 2)), (Some(-1.0), None));
    assert_eq!(words(&noisy, "chosen_model")[1], "bad");
    assert_eq!(words(&noisy, "noise_kind")[1], "uniform");
    assert_eq!(number("noise_p", 1), Some(1.0));
    assert_eq!(noisy.get_column_names(), clean.get_column_names());
}

#[test]
fn the_marker_goes_to_the_last_user_message_of_the_rows_touched_only() {
    let clean = mixed(40);
    for (kind, selected) in [(K::Uniform, Selected::Keep), (K::Ambiguous, Selected::Keep), (K::Margin, Selected::Keep)]
    {
        let config = NoiseConfig { flip_marker: "[FLIP]".into(), selected, ..at(kind, 0.5) };
        let noisy = noisy(&clean, &config, 3);
        let kinds = words(&noisy, "noise_kind");
        let touched = if kind.selects() { kinds.iter().map(|k| k != NO_NOISE).collect() } else { flipped(&noisy) };
        assert!(touched.contains(&true) && touched.contains(&false));
        for (i, prompt) in texts(&noisy, "prompt").iter().enumerate() {
            let wanted = if touched[i] { format!("p{i} [FLIP]") } else { format!("p{i}") };
            assert_eq!(prompt[1], Message::user(wanted));
            assert_eq!((prompt[0].content.as_str(), prompt[2].content.as_str()), ("s", "x"));
        }
    }
}

#[test]
fn no_rate_no_change_and_a_seed_of_its_own() {
    let clean = mixed(64);
    for kind in KINDS {
        assert!(noisy(&clean, &at(kind, 0.0), 1).equals_missing(&clean));
    }
    let own = NoiseConfig { seed: 9, ..at(K::Uniform, 0.5) };
    assert_eq!(flipped(&noisy(&clean, &own, 1)), flipped(&noisy(&clean, &own, 2)));
    let run = at(K::Uniform, 0.5);
    assert_ne!(flipped(&noisy(&clean, &run, 1)), flipped(&noisy(&clean, &run, 2)));
}

#[test]
fn margins_weigh_as_bradley_terry_says() {
    let by = |margin: f64| Row { scores: Some((margin, 0.0)), ..PLAIN };
    let rows = [by(0.0), by(3f64.ln()), by(-(3f64.ln())), Row { scores: None, ..PLAIN }];
    // sigmoid(-m): 1/2, 1/4, 3/4. Uncalibrated 2 R of it, cut at 1; without scores R.
    let plain = NoiseConfig { calibrate: false, ..at(K::Margin, 0.4) };
    close(&chances(&rows, &plain), &[0.4, 0.2, 0.6, 0.4]);
    close(&chances(&rows, &NoiseConfig { flip_rate: 0.8, ..plain.clone() }), &[0.8, 0.4, 1.0, 0.8]);
    // At twice the temperature the margin counts half.
    let warm = NoiseConfig { temperature: 2.0, ..plain };
    close(&chances(&[by(2.0 * 3f64.ln())], &warm), &[0.2]);
    // Calibrated: the three share 3 R in the proportion 2 : 1 : 3.
    close(&chances(&rows, &at(K::Margin, 0.2)), &[0.2, 0.1, 0.3, 0.2]);
    assert_eq!(chances(&rows, &at(K::Margin, 1.0)), [1.0; 4]);
    // Huge margins are no problem.
    assert_eq!(chances(&[by(1e300), by(-1e300)], &at(K::Margin, 1.0)), [1.0, 1.0]);
}

#[test]
fn lengths_weigh_by_their_share() {
    let by = |chosen, rejected| Row { lengths: (chosen, rejected), ..PLAIN };
    // Shares of the rejected, one character added to each: 3/6, 5/6, 1/6.
    let rows = [by(2, 2), by(0, 4), by(4, 0)];
    let plain = NoiseConfig { calibrate: false, ..at(K::Length, 0.3) };
    close(&chances(&rows, &plain), &[0.3, 0.5, 0.1]);
    close(&chances(&rows, &at(K::Length, 0.2)), &[0.2, 1.0 / 3.0, 0.2 / 3.0]);
    // At half the temperature the odds are squared.
    let cold = NoiseConfig { temperature: 0.5, ..plain };
    close(&chances(&[by(0, 2)], &cold), &[0.54]);
}

#[test]
fn sources_annotators_and_columns_have_their_own_rates() {
    let rows = [Row { source: "a", ..PLAIN }, Row { source: "b", ..PLAIN }];
    close(&chances(&rows, &at(K::Source, 1.0)), &[0.5, 0.1]);
    close(&chances(&rows, &at(K::Source, 0.5)), &[0.25, 0.05]);
    let only = NoiseConfig { source_rates: vec!["b = 0.4".into()], ..at(K::Source, 1.0) };
    close(&chances(&rows, &only), &[0.0, 0.4]);

    let by = |annotator| Row { annotator, ..PLAIN };
    let rows = [by(Some("ann")), by(Some("bob")), by(None)];
    let listed = NoiseConfig { annotator_rates: vec!["ann=0.4".into(), "*=0.2".into()], ..at(K::Annotator, 0.5) };
    close(&chances(&rows, &listed), &[0.2, 0.1, 0.1]);
    // Drawn rates: one for all pairs of an annotator, around R; R for pairs without an annotator.
    let drawn = NoiseConfig { calibrate: false, ..at(K::Annotator, 0.2) };
    let found = chances(&[rows.to_vec(), rows.to_vec()].concat(), &drawn);
    assert_eq!((found[0], found[1], found[2]), (found[3], found[4], 0.2));
    assert!(found[0] != found[1] && found[..2].iter().all(|p| (0.0..=0.4).contains(p)), "{found:?}");
    // Simulated annotators: as many rates as annotators.
    let simulated = NoiseConfig { annotators: 3, ..at(K::Annotator, 0.2) };
    let found: BTreeSet<u64> = chances(&vec![PLAIN; 200], &simulated).iter().map(|p| p.to_bits()).collect();
    assert_eq!(found.len(), 3);

    let by = |given| Row { given, ..PLAIN };
    close(&chances(&[by(Some(0.6)), by(None), by(Some(1.0))], &at(K::Column, 0.5)), &[0.3, 0.0, 0.5]);
}

#[test]
fn a_probability_that_is_none_is_told_with_its_place() {
    for bad in [1.5, -0.1, f64::NAN] {
        let mut wrong = frame(&[PLAIN, Row { given: Some(bad), ..PLAIN }]);
        wrong.with_column(Column::new("file".into(), [0u32, 0])).unwrap();
        wrong.with_column(Column::new("line".into(), [4u64, 7])).unwrap();
        let config = at(K::Column, 1.0);
        let error = apply(wrong, &config, &NoisePlan::direct(&config), Seed(0)).unwrap_err();
        let wanted = format!("input 1: line 7: flip_probability: expected a probability between 0 and 1, got {bad}");
        assert_eq!((error.to_string(), error.exit_code()), (wanted, 3));
    }
}

#[test]
fn ambiguous_pairs_are_those_with_the_smallest_gap() {
    let by = |chosen: f64, rejected: f64| Row { scores: Some((chosen, rejected)), ..PLAIN };
    let bare = |chosen, rejected| Row { scores: None, lengths: (chosen, rejected), ..PLAIN };
    // Gaps 3, 1, 0.5 (against the label), then by length 2, 9.
    let rows = [by(5.0, 2.0), bare(1, 10), by(3.0, 2.0), bare(4, 2), by(1.0, 1.5)];
    let picked = |rate: f64| -> Vec<usize> {
        let config = NoiseConfig { selected: Selected::Keep, ..at(K::Ambiguous, rate) };
        let noisy = noisy(&frame(&rows), &config, 1);
        assert!(flipped(&noisy).iter().all(|f| !f));
        assert!(numbers(&noisy, "noise_p").iter().all(|p| *p == 0.0));
        assert_eq!(texts(&noisy, "chosen"), texts(&frame(&rows), "chosen"));
        let kinds = words(&noisy, "noise_kind");
        assert!(kinds.iter().all(|k| k == "ambiguous" || k == NO_NOISE));
        (0..rows.len()).filter(|i| kinds[*i] == "ambiguous").collect()
    };
    let wanted: [(f64, &[usize]); 6] =
        [(0.05, &[]), (0.2, &[4]), (0.4, &[2, 4]), (0.6, &[0, 2, 4]), (0.8, &[0, 2, 3, 4]), (1.0, &[0, 1, 2, 3, 4])];
    for (rate, wanted) in wanted {
        assert_eq!(picked(rate), wanted, "{rate}");
    }
    let hard = noisy(&frame(&rows), &at(K::Ambiguous, 0.4), 1);
    assert_eq!(flipped(&hard), [false, false, true, false, true]);
    assert_eq!(numbers(&hard, "noise_p"), [0.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn weak_pairs_are_those_with_the_lowest_chosen_score() {
    let by = |chosen: f64, rejected: f64| Row { scores: Some((chosen, rejected)), ..PLAIN };
    // Lowest chosen score first, then the smaller gap; not for pairs without scores or labelled against them.
    let rows = [by(4.0, 1.0), by(2.0, 0.0), by(2.0, 1.0), by(1.0, 3.0), Row { scores: None, ..PLAIN }, by(1.0, 1.0)];
    let picked = |rate: f64| -> Vec<usize> {
        let noisy = noisy(&frame(&rows), &at(K::WeakQuality, rate), 1);
        (0..rows.len()).filter(|i| flipped(&noisy)[*i]).collect()
    };
    assert_eq!((picked(1.0 / 6.0), picked(2.0 / 6.0), picked(0.5)), (vec![2], vec![1, 2], vec![0, 1, 2]));
    assert_eq!(picked(1.0), [0, 1, 2], "no more than there are");
    let plan = plan(&frame(&rows), &at(K::WeakQuality, 1.0), 1);
    assert_eq!((plan.rows, plan.judged, plan.selected), (6, 3, 3));
}

#[test]
fn ties_are_broken_by_hash() {
    let rows = vec![PLAIN; 200];
    for kind in [K::Ambiguous, K::WeakQuality] {
        let config = at(kind, 0.25);
        let flips = |seed| flipped(&noisy(&frame(&rows), &config, seed));
        assert_eq!(flips(1).iter().filter(|f| **f).count(), 50);
        assert_ne!(flips(1), flips(2));
        assert!(flips(1)[100..].contains(&true) && flips(1)[..100].contains(&true));
    }
}

#[test]
fn noise_that_can_say_nothing_is_refused() {
    let bare = frame(&vec![Row { scores: None, ..PLAIN }; 3]);
    for kind in [K::Margin, K::WeakQuality] {
        let mut survey = NoiseSurvey::new(&at(kind, 0.5), Seed(0));
        survey.add(&bare).unwrap();
        let error = survey.finish().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("and none of the 3 is one; "), "{error}");
    }
    // Without calibration every pair gets R; ambiguous pairs have the lengths.
    let plain = NoiseConfig { calibrate: false, ..at(K::Margin, 0.5) };
    assert_eq!(numbers(&noisy(&bare, &plain, 0), "noise_p"), [0.5; 3]);
    assert_eq!(plan(&bare, &at(K::Ambiguous, 0.5), 0).selected, 2);
    // No pair at all is no fault.
    let mut survey = NoiseSurvey::new(&at(K::Margin, 0.5), Seed(0));
    survey.add(&bare.head(Some(0))).unwrap();
    assert_eq!(survey.finish().unwrap().rows, 0);
}

#[test]
fn a_plan_belongs_to_its_settings() {
    let clean = mixed(10);
    let seed = Seed(0);
    for (config, plan) in [
        (at(K::Margin, 0.5), NoisePlan::direct(&at(K::Margin, 0.5))),
        (at(K::Ambiguous, 0.5), NoisePlan::direct(&at(K::Ambiguous, 0.5))),
        (at(K::Uniform, 0.5), NoisePlan::direct(&at(K::Source, 0.5))),
    ] {
        let error = apply(clean.clone(), &config, &plan, seed).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
    for kind in KINDS {
        let plan = plan(&clean, &at(kind, 0.3), 5);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<NoisePlan>(&text).unwrap(), plan, "{text}");
        assert_eq!(at(kind, 0.3).needs_survey(), plan.rows > 0 && plan.judged > 0, "{kind:?}");
        assert!(!at(kind, 0.0).needs_survey());
    }
    assert!(!NoiseConfig { calibrate: false, ..at(K::Margin, 0.3) }.needs_survey());
    assert!(NoiseConfig { calibrate: false, ..at(K::Ambiguous, 0.3) }.needs_survey());
}

#[test]
fn all_faults_of_the_settings_are_told() {
    let faults = |config: &NoiseConfig| -> Vec<String> { config.faults().iter().map(ToString::to_string).collect() };
    assert_eq!(faults(&at(K::Uniform, 1.5)), ["prepare.noise.flip_rate: must be between 0 and 1, got 1.5"]);
    assert_eq!(faults(&at(K::Uniform, f64::NAN)).len(), 1);
    for kind in KINDS {
        assert_eq!(faults(&at(kind, 0.2)), Vec::<String>::new());
    }
    let odd = NoiseConfig {
        temperature: 0.0,
        source_rates: vec!["a".into(), "b=2".into(), "=0.1".into(), "c=0.1".into(), "c=0.2".into()],
        ..at(K::Uniform, 0.0)
    };
    insta::assert_snapshot!(faults(&odd).join("\n"), @r#"
    prepare.noise.temperature: must be above 0, got 0
    prepare.noise.source_rates: expected NAME=RATE with a rate between 0 and 1, got `a`
    prepare.noise.source_rates: expected NAME=RATE with a rate between 0 and 1, got `b=2`
    prepare.noise.source_rates: expected NAME=RATE with a rate between 0 and 1, got `=0.1`
    prepare.noise.source_rates: c is given twice
    "#);
    let idle = NoiseConfig {
        temperature: 2.0,
        calibrate: false,
        source_rates: vec!["a=0.1".into()],
        annotator_rates: vec!["a=0.1".into()],
        annotators: 3,
        selected: Selected::Flip,
        ..at(K::Uniform, 0.1)
    };
    insta::assert_snapshot!(faults(&idle).join("\n"), @r"
    prepare.noise.temperature: has no effect with --flip-kind uniform; it belongs to margin and length
    prepare.noise.calibrate: has no effect with --flip-kind uniform; it belongs to margin, length and annotator
    prepare.noise.source_rates: has no effect with --flip-kind uniform; it belongs to source
    prepare.noise.annotator_rates: has no effect with --flip-kind uniform; it belongs to annotator
    prepare.noise.annotators: has no effect with --flip-kind uniform; it belongs to annotator
    prepare.noise.selected: has no effect with --flip-kind uniform; it belongs to ambiguous and weak-quality
    ");
    // Neither a clean run of a noisy recipe is a fault, nor are the applicable settings of a kind.
    assert!(faults(&NoiseConfig { flip_rate: 0.0, ..idle.clone() }).is_empty());
    assert!(faults(&idle.applicable()).is_empty());
    assert_eq!(
        NoiseConfig { flip_rate: 0.0, seed: 4, ..idle.clone() }.applicable(),
        NoiseConfig { seed: 4, ..NoiseConfig::default() }
    );
    let both = NoiseConfig { flip_kind: K::Annotator, ..idle };
    let keys: Vec<_> = both.faults().into_iter().map(|f| f.key).collect();
    let named = ["temperature", "source_rates", "selected", "annotators", "calibrate"];
    assert_eq!(keys, named.map(|name| format!("prepare.noise.{name}")));
    let bare = NoiseConfig { source_rates: Vec::new(), ..at(K::Source, 0.1) };
    assert!(faults(&bare)[0].starts_with("prepare.noise.source_rates: missing"));
}

fn by_id(frame: &DataFrame) -> DataFrame {
    frame.sort(["id"], Default::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn flipping_twice_is_nothing(rate in 0.01f64..=1.0, seed in any::<u64>(), n in 4usize..20, kind in 0usize..8) {
        let clean = mixed(n);
        let config = at(KINDS[kind], rate);
        let Ok(plan) = ({
            let mut survey = NoiseSurvey::new(&config, Seed(seed));
            survey.add(&clean).unwrap();
            survey.finish()
        }) else { return Ok(()) };
        let once = apply(clean.clone(), &config, &plan, Seed(seed)).unwrap();
        // A survey of noisy pairs sees the clean ones.
        let mut again = NoiseSurvey::new(&config, Seed(seed));
        again.add(&once).unwrap();
        prop_assert_eq!(&again.finish().unwrap(), &plan);
        let twice = apply(once, &config, &plan, Seed(seed)).unwrap();
        let noise = ["noise_kind", "noise_p"];
        prop_assert!(twice.drop_many(noise).equals_missing(&clean.drop_many(noise)));
    }

    #[test]
    fn flips_are_nested(
        low in 0.0f64..=1.0,
        high in 0.0f64..=1.0,
        seed in any::<u64>(),
        kind in 0usize..8,
        calibrate in any::<bool>(),
        annotators in 0usize..4,
    ) {
        let (low, high) = if low <= high { (low, high) } else { (high, low) };
        let clean = mixed(80);
        let flips = |rate: f64| {
            let config = NoiseConfig { calibrate, annotators, ..at(KINDS[kind], rate) };
            let noisy = noisy(&clean, &config, seed);
            (flipped(&noisy), numbers(&noisy, "noise_p"))
        };
        let ((few, small), (many, large)) = (flips(low), flips(high));
        prop_assert!(few.iter().zip(&many).all(|(l, h)| !l || *h));
        prop_assert!(small.iter().zip(&large).all(|(l, h)| *l <= *h * (1.0 + 1e-12)));
        if KINDS[kind].selects() && low > 0.0 {
            let wanted = (low * 80.0).round() as usize;
            let found = few.iter().filter(|f| **f).count();
            prop_assert!(found == wanted || KINDS[kind] == K::WeakQuality && found < wanted);
        }
    }

    #[test]
    fn neither_order_nor_company_matters(
        (order, cut) in Just((0..60u32).collect::<Vec<_>>()).prop_shuffle().prop_flat_map(|o| (Just(o), 0usize..=60)),
        rate in 0.0f64..=1.0,
        seed in any::<u64>(),
        kind in 0usize..8,
    ) {
        let clean = mixed(60);
        let shuffled = clean.take(&IdxCa::from_vec("o".into(), order)).unwrap();
        let config = at(KINDS[kind], rate);
        let one = plan(&clean, &config, seed);
        let (left, right) = (shuffled.head(Some(cut)), shuffled.slice(cut as i64, 60));
        let mut survey = NoiseSurvey::new(&config, Seed(seed));
        survey.add(&left).unwrap();
        let mut other = NoiseSurvey::new(&config, Seed(seed));
        other.add(&right).unwrap();
        let two = other.join(survey).finish().unwrap();
        prop_assert_eq!(&one, &two);
        let whole = apply(clean, &config, &one, Seed(seed)).unwrap();
        let parts = [left, right].map(|part| apply(part, &config, &two, Seed(seed)).unwrap());
        let joined = parts[0].vstack(&parts[1]).unwrap();
        prop_assert!(by_id(&joined).equals_missing(&by_id(&whole)));
    }
}
