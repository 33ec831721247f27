//! Which settings have an effect on which latent.
//!
//! A setting that differs from its default and changes nothing was meant to
//! change something: it is a fault that names it.

use super::config::{LatentKind, LpcConfig, Schedule};

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
            set: |config| config.$field != LpcConfig::default().$field,
            reset: |config| config.$field = LpcConfig::default().$field,
        }
    };
}

/// Latents whose size K gives.
fn sized(kind: LatentKind) -> bool {
    kind.inferred() || kind == LatentKind::Mlp
}

fn summed(kind: LatentKind) -> bool {
    kind.coded() && kind != LatentKind::LpcHard
}

/// Every setting but the latent's name, in the order of the struct.
const SETTINGS: [Setting; 17] = [
    setting!(codes, sized),
    setting!(kl_weight, LatentKind::inferred),
    setting!(kl_warmup, LatentKind::inferred),
    setting!(temperature, LatentKind::coded),
    setting!(temperature_end, LatentKind::coded),
    setting!(temperature_schedule, LatentKind::coded),
    setting!(g, LatentKind::inferred),
    setting!(pooling, LatentKind::inferred),
    // The control `mlp` is as large as the networks that it stands for.
    setting!(features, sized),
    setting!(normalise, sized),
    setting!(exact, summed),
    setting!(code_init, sized),
    setting!(head_init, LatentKind::inferred),
    setting!(balance, LatentKind::coded),
    setting!(lr, |kind| kind != LatentKind::None),
    setting!(detach, sized),
    setting!(latent, |_| true),
];

/// The configuration with everything that its latent ignores at its default.
pub(super) fn applicable(config: &LpcConfig) -> LpcConfig {
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
    found.extend(idle_together(&applicable(config)));
    found
}

/// Settings that others leave without effect.
fn idle_together(config: &LpcConfig) -> Vec<(&'static str, String)> {
    let set = |key: &str| SETTINGS.iter().any(|s| s.key == key && (s.set)(config));
    let mut found = Vec::new();
    if config.exact {
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
    use crate::lpc::config::{Features, Mixture, Pooling};

    /// Everything away from its default.
    fn everything(latent: LatentKind) -> LpcConfig {
        LpcConfig {
            latent,
            codes: 3,
            kl_weight: 0.1,
            kl_warmup: 0.2,
            temperature: 2.0,
            temperature_end: 0.5,
            temperature_schedule: Schedule::Linear,
            g: Mixture::Prior,
            pooling: Pooling::Last,
            features: Features::Difference,
            normalise: false,
            exact: true,
            code_init: 0.2,
            head_init: 0.5,
            balance: 0.1,
            lr: 0.1,
            detach: true,
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
    }

    #[test]
    fn settings_that_a_latent_ignores_are_named() {
        use LatentKind as L;
        let temperatures = ["temperature", "temperature_end", "temperature_schedule"];
        assert_eq!(keys(&everything(L::Lpc)), temperatures, "exact = true needs no temperature");
        assert_eq!(keys(&everything(L::LpcReliable)), temperatures);
        assert_eq!(keys(&everything(L::LpcHard)), ["exact"]);
        assert_eq!(keys(&everything(L::Gaussian)), [&temperatures[..], &["exact", "balance"]].concat());
        let mlp = ["kl_weight", "kl_warmup"].iter().chain(&temperatures).chain(&["g", "pooling", "exact", "head_init"]);
        assert_eq!(keys(&everything(L::Mlp)), mlp.chain(&["balance"]).copied().collect::<Vec<_>>());
        assert_eq!(keys(&everything(L::Bias)).len(), 15, "all but the learning rate");
        assert_eq!(keys(&everything(L::None)).len(), 16);
        for latent in [L::Lpc, L::LpcHard, L::LpcReliable, L::Gaussian, L::Mlp, L::Bias, L::None] {
            assert!(LpcConfig { latent, ..LpcConfig::default() }.faults("x").is_empty(), "{latent:?}");
            let kept = LpcConfig { exact: false, ..everything(latent) }.applicable();
            assert!(kept.faults("x").is_empty(), "{latent:?}: {:?}", kept.faults("x"));
            assert_eq!(kept.applicable(), kept);
        }
    }

    #[test]
    fn settings_that_others_switch_off_are_named() {
        let lpc = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::default() };
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
