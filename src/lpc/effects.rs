//! Which settings have an effect on which latent.
//!
//! A setting that differs from its default and changes nothing was meant to
//! change something: it is a fault that names it.

use super::config::{CodeSpace, Grouping, LatentKind, LpcConfig, PriorInput, Schedule};

/// One setting.
struct Setting {
    key: &'static str,
    /// Whether this latent looks at it.
    used: fn(LatentKind) -> bool,
    /// Whether it differs from its default.
    set: fn(&LpcConfig) -> bool,
    /// Puts it back to its default.
    reset: fn(&mut LpcConfig),
}

macro_rules! setting {
    ($field:ident, $used:expr) => {
        Setting {
            key: stringify!($field),
            used: $used,
            set: |config| config.$field != LpcConfig::of(config.preset).$field,
            reset: |config| config.$field = LpcConfig::of(config.preset).$field,
        }
    };
}

/// Latents whose size K gives.
fn sized(kind: LatentKind) -> bool {
    kind.inferred() || kind == LatentKind::Mlp
}

/// Latents that have numbers of the size of a code.
fn wide(kind: LatentKind) -> bool {
    kind != LatentKind::None
}

fn summed(kind: LatentKind) -> bool {
    kind.coded() && kind != LatentKind::LpcHard
}

/// Latents that start at a size.
fn started(kind: LatentKind) -> bool {
    sized(kind) || kind == LatentKind::Noise
}

/// Latents that are trained.
fn learned(kind: LatentKind) -> bool {
    sized(kind) || kind == LatentKind::Bias
}

/// Every setting but the latent's name, in the order of the struct.
const SETTINGS: [Setting; 31] = [
    setting!(codes, sized),
    setting!(inference, summed),
    setting!(group, summed),
    setting!(kl_weight, LatentKind::inferred),
    setting!(kl_warmup, LatentKind::inferred),
    setting!(temperature, LatentKind::coded),
    setting!(temperature_end, LatentKind::coded),
    setting!(temperature_schedule, LatentKind::coded),
    setting!(g, LatentKind::inferred),
    setting!(expected_weight, summed),
    setting!(pooling, LatentKind::inferred),
    setting!(features, LatentKind::inferred),
    setting!(exact, summed),
    setting!(prior_input, sized),
    setting!(prior_tokens, sized),
    setting!(prior_dropout, sized),
    setting!(prior_width, LatentKind::inferred),
    setting!(prompt_pooling, sized),
    setting!(prompt_layer, sized),
    setting!(normalise, sized),
    setting!(code_space, wide),
    setting!(code_tokens, wide),
    setting!(code_init, started),
    setting!(code_lr, learned),
    setting!(head_init, LatentKind::inferred),
    setting!(balance, LatentKind::coded),
    setting!(lr, learned),
    setting!(warmup, learned),
    setting!(detach, sized),
    setting!(latent, |_| true),
    // It is what the others are compared with.
    Setting { key: "preset", used: |_| true, set: |_| true, reset: |_| {} },
];

/// The configuration with everything that its latent, and its other settings, ignore at its default.
pub(super) fn applicable(config: &LpcConfig) -> LpcConfig {
    let mut kept = used(config);
    let idle: Vec<&str> = idle_together(&kept).into_iter().map(|(key, _)| key).collect();
    SETTINGS.iter().filter(|s| idle.contains(&s.key)).for_each(|s| (s.reset)(&mut kept));
    kept
}

/// The configuration with everything that its latent ignores at its default.
fn used(config: &LpcConfig) -> LpcConfig {
    let mut kept = config.clone();
    SETTINGS.iter().filter(|s| !(s.used)(config.latent)).for_each(|s| (s.reset)(&mut kept));
    kept
}

/// Settings without effect: key, and why.
pub(super) fn idle(config: &LpcConfig) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for setting in SETTINGS.iter().filter(|s| (s.set)(config) && !(s.used)(config.latent)) {
        let why = match (setting.key, config.latent) {
            ("exact", LatentKind::LpcHard) => "sums over codes; use latent \"lpc\"".into(),
            (_, latent) => format!("has no effect with latent \"{}\"", latent.name()),
        };
        found.push((setting.key, why));
    }
    found.extend(idle_together(&used(config)));
    found
}

/// Settings that others leave without effect.
fn idle_together(config: &LpcConfig) -> Vec<(&'static str, String)> {
    let set = |key: &str| SETTINGS.iter().any(|s| s.key == key && (s.set)(config));
    let mut found = Vec::new();
    if config.bayesian() {
        let why = "has no effect with inference \"bayes\"";
        let sampled = ["temperature", "temperature_end", "temperature_schedule", "g", "pooling", "features", "exact"];
        found.extend(sampled.into_iter().filter(|key| set(key)).map(|key| (key, why.to_string())));
    } else {
        if config.group == Grouping::Prompt {
            found.push(("group", "\"prompt\" needs inference \"bayes\"".to_string()));
        }
        if set("expected_weight") {
            found.push(("expected_weight", "has no effect without inference \"bayes\"; see g".to_string()));
        }
    }
    if config.active() && sized(config.latent) {
        if !config.prior_input.states() {
            let why = "has no effect: prior_input does not read hidden states";
            let keys: &[&str] = match (config.prior_input, config.amortised()) {
                // The posterior's input is scaled and cut off by the same settings.
                (_, true) => &["prompt_pooling", "prompt_layer"],
                _ => &["prompt_pooling", "prompt_layer", "normalise", "detach"],
            };
            found.extend(keys.iter().filter(|key| set(key)).map(|&key| (key, why.to_string())));
        }
        if !config.prior_input.tokens() {
            let why = "has no effect: prior_input does not read tokens";
            let keys = ["prior_tokens", "prior_dropout"].into_iter().filter(|key| set(key));
            found.extend(keys.map(|key| (key, why.to_string())));
        }
        if config.prior_input == PriorInput::None && set("prior_width") {
            found.push(("prior_width", "has no effect with prior_input \"none\"".to_string()));
        }
    }
    if config.code_space == CodeSpace::Hidden && set("code_tokens") {
        found.push(("code_tokens", "has no effect with code_space \"hidden\"".to_string()));
    }
    if config.bayesian() {
        // Told above.
    } else if config.exact {
        let temperatures = ["temperature", "temperature_end", "temperature_schedule"].into_iter();
        found.extend(temperatures.filter(|key| set(key)).map(|key| (key, "has no effect with exact = true".into())));
    } else if config.temperature_schedule == Schedule::Constant {
        if set("temperature_end") {
            found.push(("temperature_end", "has no effect with temperature_schedule \"constant\"".into()));
        }
    } else if config.temperature_end == config.temperature {
        let why = format!("has no effect: temperature and temperature_end are both {}", config.temperature);
        found.push(("temperature_schedule", why));
    }
    if config.kl_weight == 0.0 && config.kl_warmup != 0.0 {
        found.push(("kl_warmup", "has no effect with kl_weight = 0".into()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpc::config::{Features, Inference, Mixture, Normalise, Pooling, Preset};

    /// Everything away from its default.
    fn everything(latent: LatentKind) -> LpcConfig {
        LpcConfig {
            latent,
            preset: Preset::Default,
            codes: 3,
            inference: Inference::Amortised,
            group: Grouping::Prompt,
            kl_weight: 0.1,
            kl_warmup: 0.2,
            temperature: 2.0,
            temperature_end: 0.5,
            temperature_schedule: Schedule::Linear,
            g: Mixture::Prior,
            expected_weight: 0.2,
            pooling: Pooling::Last,
            features: Features::Difference,
            exact: true,
            prior_input: PriorInput::Both,
            prior_tokens: 10,
            prior_dropout: 0.7,
            prior_width: 8,
            prompt_pooling: Pooling::Last,
            prompt_layer: 1,
            normalise: Normalise::Rms,
            code_space: CodeSpace::Hidden,
            code_tokens: 10,
            code_init: 0.2,
            code_lr: 0.3,
            head_init: 0.5,
            balance: 0.1,
            lr: 0.1,
            warmup: 1.0,
            detach: false,
        }
    }

    fn keys(config: &LpcConfig) -> Vec<&'static str> {
        idle(config).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_table_has_every_setting_once() {
        let value = serde_json::to_value(LpcConfig::default()).unwrap();
        let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = SETTINGS.iter().map(|s| s.key).collect();
        fields.sort_unstable();
        listed.sort_unstable();
        assert_eq!(fields, listed);
        let all = everything(LatentKind::Bias);
        assert!(SETTINGS.iter().all(|s| (s.set)(&all)));
        // Of a preset too, everything is measured from its own defaults.
        let paper = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::of(Preset::Paper) };
        assert!(paper.faults("x").is_empty(), "{:?}", paper.faults("x"));
    }

    #[test]
    fn settings_that_a_latent_ignores_are_named() {
        use LatentKind as L;
        let temperatures = ["temperature", "temperature_end", "temperature_schedule"];
        let shared = |latent| keys(&everything(latent));
        // exact = true needs no temperature, amortised posteriors know no groups, hidden codes act on no tokens.
        let lpc = [&["group", "expected_weight", "code_tokens"][..], &temperatures].concat();
        assert_eq!(shared(L::Lpc), lpc);
        assert_eq!(shared(L::LpcReliable), lpc);
        assert_eq!(shared(L::LpcHard), ["inference", "group", "expected_weight", "exact", "code_tokens"]);
        let first =
            [&["inference", "group"][..], &temperatures, &["expected_weight", "exact", "balance", "code_tokens"]]
                .concat();
        assert_eq!(shared(L::Gaussian), first);
        let mlp = ["inference", "group", "kl_weight", "kl_warmup"].iter().chain(&temperatures);
        let mlp = mlp.chain(&["g", "expected_weight", "pooling", "features", "exact"]);
        let mlp = mlp.chain(&["prior_width", "head_init", "balance", "code_tokens"]);
        assert_eq!(shared(L::Mlp), mlp.copied().collect::<Vec<_>>());
        let all = SETTINGS.len() - 2;
        // Space, tokens (idle in hidden space), codes' rate, networks' rate, warm-up.
        assert_eq!(shared(L::Bias).len(), all - 5 + 1);
        assert_eq!(shared(L::Noise).len(), all - 3 + 1, "space, tokens, size");
        assert_eq!(shared(L::None).len(), all);
        for latent in [L::Lpc, L::LpcHard, L::LpcReliable, L::Gaussian, L::Mlp, L::Bias, L::Noise, L::None] {
            assert!(LpcConfig { latent, ..LpcConfig::default() }.faults("x").is_empty(), "{latent:?}");
            for inference in [Inference::Bayes, Inference::Amortised] {
                let kept = LpcConfig { inference, ..everything(latent) }.applicable();
                assert!(kept.faults("x").is_empty(), "{latent:?}: {:?}", kept.faults("x"));
                assert_eq!(kept.applicable(), kept);
            }
        }
    }

    #[test]
    fn settings_that_others_switch_off_are_named() {
        let exact = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::default() };
        for changed in [
            LpcConfig { temperature: 2.0, ..exact.clone() },
            LpcConfig { g: Mixture::Prior, ..exact.clone() },
            LpcConfig { exact: true, ..exact.clone() },
            LpcConfig { prompt_layer: 1, ..exact.clone() },
            LpcConfig { prior_input: PriorInput::None, prior_width: 3, ..exact.clone() },
        ] {
            assert_eq!(changed.faults("x").len(), 1, "{changed:?}");
        }
        assert!(LpcConfig { group: Grouping::Prompt, ..exact.clone() }.faults("x").is_empty());
        assert_eq!(LpcConfig { kl_weight: 0.0, ..exact.clone() }.faults("x").len(), 1);
        let lpc = LpcConfig { inference: Inference::Amortised, ..exact };
        assert_eq!(keys(&LpcConfig { temperature_end: 0.5, ..lpc.clone() }), ["temperature_end"]);
        let flat = LpcConfig { temperature_schedule: Schedule::Linear, ..lpc.clone() };
        assert_eq!(keys(&flat), ["temperature_schedule"]);
        assert_eq!(keys(&LpcConfig { temperature_end: 0.5, ..flat }), [""; 0]);
        assert_eq!(keys(&LpcConfig { kl_weight: 0.0, kl_warmup: 0.5, ..lpc.clone() }), ["kl_warmup"]);
        let wrong = LpcConfig { codes: 0, lr: -1.0, ..lpc };
        let keys: Vec<String> = wrong.faults("train.lpc").into_iter().map(|f| f.key).collect();
        assert_eq!(keys, ["train.lpc.codes", "train.lpc.lr"]);
    }
}
