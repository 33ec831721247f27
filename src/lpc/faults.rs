//! What is wrong with settings of the latent part: values out of range, and settings that others leave without effect.

use super::config::{CodeSpace, LAST_LAYER, LatentKind, LpcConfig, PriorInput, Schedule};
use crate::settings::{Faults, Settings};

impl Settings for LpcConfig {
    fn judge(&self, faults: &mut Faults) {
        // What has no effect need not be in range.
        let config = self.applicable();
        let codes = config.codes;
        faults.check((1..=4096).contains(&codes), "codes", format!("expected 1 to 4096, got {codes}"));
        for (key, value) in [
            ("kl_weight", config.kl_weight),
            ("code_init", config.code_init),
            ("code_lr", config.code_lr),
            ("head_init", config.head_init),
            ("balance", config.balance),
            ("lr", config.lr),
            ("weight_decay", config.weight_decay),
            ("warmup", config.warmup),
        ] {
            faults.check(value >= 0.0 && value.is_finite(), key, format!("expected a number from 0, got {value}"));
        }
        for (key, n) in [
            ("prior_tokens", config.prior_tokens),
            ("prior_width", config.prior_width),
            ("code_tokens", config.code_tokens),
        ] {
            faults.check(n > 0, key, "expected at least 1");
        }
        let layer = config.prompt_layer;
        let message = format!("expected -1 (the last) or a layer from 0, got {layer}");
        faults.check(layer >= LAST_LAYER, "prompt_layer", message);
        let fine = !self.bayesian() || config.kl_weight > 0.0;
        faults.check(fine, "kl_weight", "the marginal over codes needs a weight above 0");
        let dropout = config.prior_dropout;
        faults.check((0.0..1.0).contains(&dropout), "prior_dropout", format!("expected 0 to below 1, got {dropout}"));
        for (key, value) in [("expected_weight", config.expected_weight), ("kl_warmup", config.kl_warmup)] {
            faults.check((0.0..=1.0).contains(&value), key, format!("expected 0 to 1, got {value}"));
        }
        for (key, value) in [("temperature", config.temperature), ("temperature_end", config.temperature_end)] {
            faults.check(value > 0.0 && value.is_finite(), key, format!("expected a number above 0, got {value}"));
        }
    }

    fn origin(&self) -> LpcConfig {
        LpcConfig::of(self.preset)
    }

    fn why_unused(&self, name: &str, _: &str) -> String {
        match (name, self.latent) {
            ("exact", LatentKind::LpcHard) => "sums over codes; use latent \"lpc\"".into(),
            (_, latent) => format!("has no effect with latent \"{}\": leave it out", latent.name()),
        }
    }

    fn idle(&self) -> Vec<(String, String)> {
        let mut found = self.unused();
        found.extend(idle_together(&self.used()));
        found
    }

    fn applicable(&self) -> LpcConfig {
        let used = self.used();
        let idle = idle_together(&used);
        used.without(|setting| idle.iter().any(|(name, _)| name == setting.name))
    }
}

/// Settings that others leave without effect, each with the reason.
fn idle_together(config: &LpcConfig) -> Vec<(String, String)> {
    let (given, mut found) = (config.given(), Vec::new());
    let mut idle = |names: &[&str], why: &str| {
        let names = names.iter().filter(|name| given.iter().any(|given| given == *name));
        found.extend(names.map(|name| (name.to_string(), why.to_string())));
    };
    let temperatures = ["temperature", "temperature_end", "temperature_schedule"];
    if config.bayesian() {
        let why = "has no effect with inference \"bayes\"";
        idle(&temperatures, why);
        idle(&["g", "pooling", "features", "exact"], why);
    } else {
        idle(&["group"], "\"prompt\" needs inference \"bayes\"");
        idle(&["expected_weight"], "has no effect without inference \"bayes\"; see g");
    }
    if config.active() && config.latent.sized() {
        if !config.prior_input.states() {
            let why = "has no effect: prior_input does not read hidden states";
            idle(&["prompt_pooling", "prompt_layer"], why);
            // An amortised posterior's input is scaled and cut off by the same settings.
            if !config.amortised() {
                idle(&["normalise", "detach"], why);
            }
        }
        if !config.prior_input.tokens() {
            idle(&["prior_tokens", "prior_dropout"], "has no effect: prior_input does not read tokens");
        }
        if config.prior_input == PriorInput::None {
            idle(&["prior_width"], "has no effect with prior_input \"none\"");
        }
    }
    if config.code_space == CodeSpace::Hidden {
        idle(&["code_tokens"], "has no effect with code_space \"hidden\"");
    }
    if config.bayesian() {
        // Told above.
    } else if config.exact {
        idle(&temperatures, "has no effect with exact = true");
    } else if config.temperature_schedule == Schedule::Constant {
        idle(&["temperature_end"], "has no effect with temperature_schedule \"constant\"");
    } else if config.temperature_end == config.temperature {
        let why = format!("has no effect: temperature and temperature_end are both {}", config.temperature);
        idle(&["temperature_schedule"], &why);
    }
    if config.kl_weight == 0.0 {
        idle(&["kl_warmup"], "has no effect with kl_weight = 0");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lpc::config::{Features, Grouping, Inference, Mixture, Normalise, Pooling, Preset};
    use crate::settings::Table;

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
            weight_decay: 0.1,
            warmup: 1.0,
            detach: false,
        }
    }

    fn keys(config: &LpcConfig) -> Vec<String> {
        config.idle().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn everything_is_measured_from_the_defaults_of_the_preset() {
        // But for the preset itself.
        assert_eq!(everything(LatentKind::Bias).given().len(), LpcConfig::table().len() - 1);
        let paper = LpcConfig { latent: LatentKind::Lpc, ..LpcConfig::of(Preset::Paper) };
        assert_eq!(paper.faults(), []);
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
        let all = LpcConfig::table().len() - 2;
        // Space, tokens (idle in hidden space), codes' rate, networks' rate, decay, warm-up.
        assert_eq!(shared(L::Bias).len(), all - 6 + 1);
        assert_eq!(shared(L::Noise).len(), all - 3 + 1, "space, tokens, size");
        assert_eq!(shared(L::None).len(), all);
        for latent in [L::Lpc, L::LpcHard, L::LpcReliable, L::Gaussian, L::Mlp, L::Bias, L::Noise, L::None] {
            assert!(LpcConfig { latent, ..LpcConfig::default() }.faults().is_empty(), "{latent:?}");
            for inference in [Inference::Bayes, Inference::Amortised] {
                let kept = LpcConfig { inference, ..everything(latent) }.applicable();
                assert!(kept.faults().is_empty(), "{latent:?}: {:?}", kept.faults());
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
            assert_eq!(changed.faults().len(), 1, "{changed:?}");
        }
        assert!(LpcConfig { group: Grouping::Prompt, ..exact.clone() }.faults().is_empty());
        assert_eq!(LpcConfig { kl_weight: 0.0, ..exact.clone() }.faults().len(), 1);
        let lpc = LpcConfig { inference: Inference::Amortised, ..exact };
        assert_eq!(keys(&LpcConfig { temperature_end: 0.5, ..lpc.clone() }), ["temperature_end"]);
        let flat = LpcConfig { temperature_schedule: Schedule::Linear, ..lpc.clone() };
        assert_eq!(keys(&flat), ["temperature_schedule"]);
        assert!(keys(&LpcConfig { temperature_end: 0.5, ..flat }).is_empty());
        assert_eq!(keys(&LpcConfig { kl_weight: 0.0, kl_warmup: 0.5, ..lpc.clone() }), ["kl_warmup"]);
        let wrong = LpcConfig { codes: 0, lr: -1.0, ..lpc };
        let keys: Vec<String> = wrong.faults().into_iter().map(|f| f.key).collect();
        assert_eq!(keys, ["train.lpc.codes", "train.lpc.lr"]);
    }
}
