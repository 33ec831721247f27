use super::*;
use crate::nn::product;
use crate::train::device::PrecisionKind;

fn row(id: usize, prompt: usize, chosen: usize, rejected: usize) -> TokenRow {
    TokenRow {
        id: id.to_string().into(),
        prompt_ids: vec![1; prompt].into(),
        chosen_ids: vec![1; chosen].into(),
        rejected_ids: vec![1; rejected].into(),
        ..TokenRow::default()
    }
}

fn config() -> TrainConfig {
    TrainConfig { batch: 2, ..TrainConfig::default() }.resolved()
}

#[test]
fn a_pair_by_hand() {
    let load = Load::of(&row(0, 3, 2, 1), true, usize::MAX);
    // Prompt 1 + 2 + 3; chosen 4 + 5; rejected 4.
    assert_eq!(load, Load { pairs: 1, tokens: 6, responses: 3, attended: 19 });
    // No further than two tokens: 1 + 2 + 2, 2 + 2, 2.
    assert_eq!(Load::of(&row(0, 3, 2, 1), true, 2).attended, 11);
    assert_eq!(Load::of(&row(0, 3, 2, 1), false, usize::MAX), Load { pairs: 1, tokens: 5, responses: 2, attended: 15 });
}

#[test]
fn loads_are_those_of_the_steps() {
    let rows: Vec<TokenRow> = (0..5).map(|i| row(i, 10, i + 1, 1)).collect();
    let config = config();
    let of = |epochs| Loads::of(&config, &rows, StepPlan::new(5, 2, 0.0, epochs, 0), Seed(1), usize::MAX);
    let one = of(1.0);
    assert_eq!(one.all, one.epoch);
    assert_eq!(one.all.tokens, 5 * 10 + 15 + 5);
    assert_eq!(of(2.0).all, [one.epoch; 2].into_iter().sum());
    assert!(one.largest.pairs == 2 && one.largest.tokens > 22);
    let stopped = Loads::of(&config, &rows, StepPlan::new(5, 2, 0.0, 1.0, 1), Seed(1), usize::MAX);
    assert_eq!(stopped.all.pairs, 2);
}

#[test]
fn operations_are_six_for_each_parameter_and_token() {
    let shape = LlamaConfig::tiny(64, 3, 500);
    let config = config();
    let regime = Regime { added: 0, ..Regime::of(&config, &shape) };
    // Every token predicts and attends to nothing: the textbook's 6 N D, norms left out.
    let load = Load { pairs: 1, tokens: 100, responses: 100, attended: 0 };
    let matrices = (shape.parameters() - (2 * 3 + 1) * 64) as f64;
    assert_eq!(training(&shape, &regime, load), 6.0 * matrices * 100.0);
    assert_eq!(forward(&shape, &regime, load, 1), 2.0 * matrices * 100.0);
    // Attention: scores and weighted sum, 2 operations each for every channel; backward twice that.
    let attended = Load { attended: 7, ..load };
    let more = training(&shape, &regime, attended) - training(&shape, &regime, load);
    assert_eq!(more, 3.0 * 4.0 * 7.0 * 64.0 * 3.0);
    // Frozen layers give no weight gradients; cached ones are not passed at all.
    let layers = 6.0 * (matrices - 500.0 * 64.0) * 100.0;
    let frozen = Regime { backbone_gradient: false, ..regime.clone() };
    assert_eq!(training(&shape, &regime, load) - training(&shape, &frozen, load), layers / 3.0);
    let of_head = TrainConfig { tune: Tune::Head, ..config.clone() };
    let cached = Regime { added: 0, ..Regime::of(&of_head, &shape) };
    assert_eq!(training(&shape, &cached, load), 6.0 * 500.0 * 64.0 * 100.0);
}

/// A step over kept hidden states computes the logits of the tokens that codes act on, and the latent part.
#[test]
fn steps_over_kept_states_take_the_tokens_of_the_codes() {
    let shape = LlamaConfig::tiny(64, 3, 500);
    let mut alone = TrainConfig { tune: Tune::Latent, ..config() };
    alone.lpc.code_tokens = 30;
    let regime = Regime::of(&alone, &shape);
    let load = Load { pairs: 4, tokens: 100, responses: 60, attended: 0 };
    let codes = 2.0 * 30.0 * 64.0 * 60.0 + 6.0 * regime.added as f64 * 4.0;
    assert_eq!(training(&shape, &regime, load), codes);
    // In a warm-up the same, over hidden states that the pass for the reference left; else in every pass anew.
    let mut first = TrainConfig { tune: Tune::Lora, ..alone.clone() };
    let loads =
        Loads { warm: load, epoch: Load { pairs: 2, tokens: 50, responses: 30, attended: 0 }, ..Loads::default() };
    let of = |config: &TrainConfig| warming(config, &shape, &Regime::of(config, &shape), &loads);
    assert_eq!(of(&first), codes);
    let backbone = |load| forward(&shape, &Regime::of(&first, &shape), load, 0);
    let (once, always) = (backbone(loads.epoch), backbone(loads.warm));
    first.objective.name = ObjectiveKind::Simpo;
    assert_eq!(of(&first), codes + once);
    first.head.memory_mb = 0;
    assert_eq!(of(&first), codes + always);
}

#[test]
fn memory_is_what_the_numbers_take() {
    let shape = LlamaConfig::tiny(64, 2, 500);
    let config = config();
    let regime = Regime::of(&config, &shape);
    let splits = [Split { name: "train".into(), rows: (0..8).map(|i| row(i, 50, 30, 20)).collect() }];
    let largest = Load { pairs: 2, tokens: 200, responses: 100, attended: 0 };
    let of = |regime: &Regime| Memory::of(&shape, regime, largest, &splits, config.lpc.codes);
    let memory = of(&regime);
    assert!(regime.added > 0 && regime.trainable == shape.parameters() + regime.added);
    assert_eq!(memory.weights * MIB, 4.0 * regime.trainable as f64);
    assert_eq!(memory.moments, 2.0 * memory.weights);
    assert_eq!(memory.gradients, memory.weights);
    let sum = memory.weights + memory.gradients + memory.moments + memory.data + memory.program;
    assert_eq!(memory.total, sum + memory.activations.max(memory.evaluation));
    // Another reference is there beside the weights before there are moments: it counts where these are few.
    let other = |trainable: usize, config: &TrainConfig| {
        let regime = Regime { trainable, ..Regime::of(config, &shape) };
        of(&regime).total
    };
    let named = TrainConfig { reference: "sft".into(), ..config.clone() };
    assert_eq!(other(regime.trainable, &named), memory.total);
    assert!(other(100, &named) >= 2.0 * memory.weights + memory.data && other(100, &named) > other(100, &config));
    // Two layers, each with its rows; recomputing keeps a layer's and the inputs.
    let again = of(&Regime { recompute: true, ..regime.clone() });
    let saved = 200.0 * (regime.kept_bytes - 2.0 * 4.0 * 64.0);
    assert!(((memory.activations - again.activations) * MIB - saved).abs() < 1.0);
    // The head keeps an exponential of every logit, within its room.
    let kept = |responses: u64, regime: &Regime| {
        let largest = Load { responses, ..largest };
        let of = |regime: &Regime| Memory::of(&shape, regime, largest, &splits, config.lpc.codes).activations * MIB;
        of(regime) - of(&Regime { logit_bytes: 0.0, ..regime.clone() })
    };
    assert!((kept(1_000, &regime) - 1_000.0 * 500.0 * regime.logit_bytes).abs() < 1.0 && regime.logit_bytes > 0.0);
    assert!((kept(1_000_000, &regime) - ROOM as f64).abs() < 1.0);
}

#[test]
fn operands_are_kept_in_the_precision_of_the_products() {
    let shape = LlamaConfig::tiny(512, 2, 500);
    let of = |precision| Regime::of(&TrainConfig { precision, ..config() }, &shape).kept_bytes;
    let (q, kv) = (shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim);
    let operands = (2 * q + 2 * kv + 2 * shape.intermediate_size) as f64;
    let halves = if product::available() { 2.0 * operands } else { 0.0 };
    assert_eq!(of(PrecisionKind::F32) - of(PrecisionKind::Bf16), halves);
}

#[test]
fn advice_names_what_takes_the_room() {
    let part = |weights, moments, activations| {
        let mut memory = Memory {
            weights,
            gradients: moments / 2.0,
            moments,
            activations,
            evaluation: 0.0,
            data: 0.0,
            program: 0.0,
            total: 0.0,
        };
        memory.total = memory.fixed() + activations;
        memory
    };
    assert!(part(10.0, 20.0, 5.0).advice(100.0, 8, 1).is_empty());
    let smaller = part(10.0, 0.0, 80.0).advice(60.0, 8, 2);
    assert_eq!(smaller, ["--batch 4 --accumulate 4 takes the same steps in smaller passes"]);
    let one = part(10.0, 0.0, 80.0).advice(60.0, 1, 1);
    assert!(one[0].contains("--max-length"), "{one:?}");
    let state = part(100.0, 200.0, 10.0).advice(150.0, 1, 1);
    assert!(state[0].contains("--tune"), "{state:?}");
    assert!(part(100.0, 0.0, 1.0).advice(50.0, 1, 1)[0].contains("smaller model"));
}

#[test]
fn memory_is_told_on_linux() {
    if std::path::Path::new("/proc/meminfo").exists() {
        assert!(available_memory_mb().is_some_and(|mb| mb > 100.0 && mb < 1e8));
    }
}
