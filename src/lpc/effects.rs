//! Which settings of the latent part have no effect because of others than the latent's name.

use super::config::{CodeSpace, LpcConfig, PriorInput, Schedule};
use crate::settings::Settings;

/// Settings that others leave without effect, each with the reason.
pub(super) fn idle_together(config: &LpcConfig) -> Vec<(String, String)> {
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
    use crate::lpc::config::{Features, Grouping, Inference, LatentKind, Mixture, Normalise, Pooling, Preset};
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
        // Space, tokens (idle in hidden space), codes' rate, networks' rate, warm-up.
        assert_eq!(shared(L::Bias).len(), all - 5 + 1);
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
