use super::*;
use crate::lpc::Preset;

/// A run with nothing to complain of: eight codes, each prompt on its own (entropy 0.1), labels hardly needed.
fn healthy() -> CollapseSigns {
    CollapseSigns {
        codes: 8,
        used_prior: 8,
        used_posterior: 8,
        perplexity: 7.9,
        prior_entropy: 0.1,
        posterior_entropy: 0.05,
        kl: 0.05,
        swap_overlap: Some(0.9),
        agreement: Some(0.97),
        bayes: true,
        kl_weight: 1.0,
        balance: 0.0,
        code_init: 1.0,
        grouped: false,
    }
}

fn causes(signs: CollapseSigns) -> Vec<Cause> {
    diagnose(signs, &LpcConfig::of(Preset::Paper)).iter().map(|a| a.cause).collect()
}

#[test]
fn collapse_by_hand() {
    let mut usage = Usage::default();
    usage.add(&[1.0, 0.0, 0.0]);
    usage.add(&[0.0, 1.0, 0.0]);
    assert_eq!(collapse(&usage, 0.0), None);
    // ln 3 = 1.0986: entropy 1.09 is above 0.98 of it.
    assert!(collapse(&usage, 1.09).is_some_and(|why| why.contains("alike")));
    let mut one = Usage::default();
    (0..200).for_each(|_| one.add(&[0.9, 0.1]));
    assert!(collapse(&one, 0.3).is_some_and(|why| why.contains("one code")));
    let mut plain = Usage::default();
    plain.add(&[1.0]);
    assert_eq!(collapse(&plain, 0.0), None);
}

#[test]
fn a_healthy_run_gets_no_advice() {
    assert_eq!(causes(healthy()), []);
    // Not even with a balance: the prior is uniform on average only.
    assert_eq!(causes(CollapseSigns { balance: 0.5, ..healthy() }), []);
    assert_eq!(causes(CollapseSigns { codes: 1, used_prior: 1, perplexity: 1.0, ..healthy() }), []);
    let (nan, none) = (f64::NAN, None);
    let unknown = CollapseSigns {
        perplexity: nan,
        prior_entropy: nan,
        posterior_entropy: nan,
        kl: nan,
        swap_overlap: none,
        agreement: none,
        kl_weight: nan,
        balance: nan,
        code_init: nan,
        ..healthy()
    };
    assert_eq!(causes(unknown), [], "what is not known speaks for nothing");
}

#[test]
fn one_code_takes_all() {
    let signs = CollapseSigns { used_prior: 1, perplexity: 1.04, prior_entropy: 0.03, kl: 0.001, ..healthy() };
    let found = diagnose(signs, &LpcConfig::of(Preset::Paper));
    assert_eq!(found[0].cause, Cause::OneCodeTakesAll);
    assert_eq!(found[0].seen, "1 of 8 codes used by the prior, perplexity 1.04");
    let text = found[0].to_string();
    assert!(text.contains("likely the prior's inputs share") && text.contains("train.lpc.normalise ("), "{text}");
    // A prior spread over all codes has one most probable code by chance alone: ln 8 = 2.079, 2.0 is 0.96 of it.
    assert!(!causes(CollapseSigns { prior_entropy: 2.0, perplexity: 7.5, ..signs }).contains(&Cause::OneCodeTakesAll));
}

#[test]
fn a_prior_pinned_to_uniform() {
    // Effective codes: 8 / e^2.0 = 1.083.
    let signs = CollapseSigns { perplexity: 8.0, prior_entropy: 2.0, balance: 0.5, ..healthy() };
    let found = diagnose(signs, &LpcConfig::of(Preset::Paper));
    let seen = "perplexity 8.00 of 8, but only 1.08 effective codes, balance 0.5";
    assert!(found.iter().any(|a| a.cause == Cause::PinnedToUniform && a.seen == seen), "{found:?}");
    assert!(!causes(CollapseSigns { balance: 0.0, ..signs }).contains(&Cause::PinnedToUniform));
    assert_eq!(Cause::PinnedToUniform.settings()[0].0, "train.lpc.balance");
}

#[test]
fn labels_explained_away() {
    let signs = CollapseSigns { kl_weight: 0.05, swap_overlap: Some(0.1), agreement: Some(0.2), ..healthy() };
    assert_eq!(causes(signs), [Cause::LabelsExplainedAway]);
    let seen = &diagnose(signs, &LpcConfig::of(Preset::Paper))[0].seen;
    assert_eq!(seen, "prior and posterior on the same code in 20 %, swap overlap 0.10, KL weight 0.05");
    // At weight 1, with agreement, or where the posterior does not look at the label, it is not that.
    for other in [
        CollapseSigns { kl_weight: 1.0, ..signs },
        CollapseSigns { agreement: Some(0.9), ..signs },
        CollapseSigns { swap_overlap: Some(0.9), ..signs },
    ] {
        assert!(!causes(other).contains(&Cause::LabelsExplainedAway), "{other:?}");
    }
    // Without the share, a large KL says that they differ.
    assert_eq!(causes(CollapseSigns { agreement: None, kl: 1.2, ..signs }), [Cause::LabelsExplainedAway]);
}

/// Nothing has happened yet: all distributions as they were drawn.
fn asleep() -> CollapseSigns {
    CollapseSigns {
        perplexity: 7.6,
        prior_entropy: 2.0,
        posterior_entropy: 2.0,
        kl: 0.004,
        swap_overlap: Some(0.999),
        agreement: Some(0.5),
        ..healthy()
    }
}

#[test]
fn codes_too_small() {
    let signs = CollapseSigns { code_init: 0.03, ..asleep() };
    assert_eq!(causes(signs), [Cause::CodesTooSmall]);
    assert_eq!(
        diagnose(signs, &LpcConfig::of(Preset::Paper))[0].seen,
        "KL 0.0040 nats, swap overlap 1.00, codes of size 0.03"
    );
    assert_eq!(causes(CollapseSigns { code_init: 0.3, ..signs }), []);
    assert_eq!(causes(CollapseSigns { swap_overlap: Some(0.6), ..signs }), []);
}

#[test]
fn a_posterior_network_that_ignores_the_label() {
    let signs = CollapseSigns { bayes: false, ..asleep() };
    assert_eq!(causes(signs), [Cause::LabelIgnored]);
    assert_eq!(causes(CollapseSigns { bayes: true, ..signs }), [], "Bayes' posterior cannot");
}

#[test]
fn codes_too_large() {
    // The posterior has decided (0.05 of 2.08), the prior has not: 7.6 / e^2 = 1.03.
    let signs = CollapseSigns { code_init: 10.0, posterior_entropy: 0.05, swap_overlap: None, kl: 1.9, ..asleep() };
    assert_eq!(causes(signs), [Cause::CodesTooLarge]);
    assert_eq!(
        diagnose(signs, &LpcConfig::of(Preset::Paper))[0].seen,
        "posterior entropy 0.05 of 2.08 nats, codes of size 10"
    );
    assert_eq!(causes(CollapseSigns { code_init: 1.0, ..signs }), []);
}

#[test]
fn single_hidden_pairs() {
    // Mean prior e^2.03 = 7.61, entropy 2.0: 1.03 effective codes; the label moves the posterior.
    let signs = CollapseSigns { posterior_entropy: 1.2, kl: 0.6, swap_overlap: Some(0.4), ..asleep() };
    assert_eq!(causes(signs), [Cause::NotIdentified]);
    assert!(
        diagnose(signs, &LpcConfig::of(Preset::Paper))[0]
            .seen
            .starts_with("1.03 effective codes of the prior, KL 0.60 nats, swap overlap 0.40")
    );
    assert_eq!(causes(CollapseSigns { grouped: true, ..signs }), []);
    // A prior that tells prompts apart has found them: 7.6 / e^1.4 = 1.87.
    assert_eq!(causes(CollapseSigns { prior_entropy: 1.4, ..signs }), []);
}

#[test]
fn what_is_set_already_is_not_advised() {
    let told = |signs: CollapseSigns, config: &LpcConfig| diagnose(signs, config)[0].to_string();
    let one = CollapseSigns { used_prior: 1, perplexity: 1.04, prior_entropy: 0.03, kl: 0.001, ..healthy() };
    let paper = LpcConfig::of(Preset::Paper);
    assert!(told(one, &LpcConfig::default()).ends_with(". The settings that help are set already"));
    let states = LpcConfig { prior_input: PriorInput::States, ..LpcConfig::default() };
    let text = told(one, &states);
    assert!(text.contains("What helps: train.lpc.prior_input (") && !text.contains("normalise ("), "{text}");
    let rms = LpcConfig { normalise: Normalise::Rms, ..states };
    assert!(told(one, &rms).contains("What helps: train.lpc.normalise ("));
    assert!(told(one, &paper).contains("train.lpc.warmup ("));
    let explained = CollapseSigns { kl_weight: 0.05, swap_overlap: Some(0.3), agreement: Some(0.2), ..healthy() };
    assert!(told(explained, &paper).contains("train.lpc.inference ("));
    let text = told(explained, &LpcConfig::default());
    assert!(text.contains("train.lpc.kl_weight (") && !text.contains("train.lpc.inference ("), "{text}");
}
