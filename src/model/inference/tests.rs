use super::*;
use crate::model::Decoder;
use crate::model::init::random;
use crate::seed::Seed;

/// Decoders of every kind: tied or not, with biases, with windows in the upper layers.
fn kinds() -> Vec<LlamaConfig> {
    let tiny = LlamaConfig::tiny(64, 3, 90);
    vec![
        tiny.clone(),
        LlamaConfig { tie_word_embeddings: false, mlp_bias: true, output_bias: true, ..tiny.clone() },
        LlamaConfig { attention_bias: true, sliding_window: 5, first_windowed_layer: 1, ..tiny.clone() },
        LlamaConfig { num_attention_heads: 6, num_key_value_heads: 2, head_dim: 10, ..tiny },
    ]
}

fn params(config: &LlamaConfig) -> Params {
    let params = random::<f32>(config, 0.2, Seed(8)).unwrap();
    for param in params.iter().filter(|p| p.name.ends_with("bias")) {
        // Biases begin at 0; here they must show.
        param.var.set(&(param.var.ones_like().unwrap() * 0.3).unwrap()).unwrap();
    }
    Params::new(params).unwrap()
}

fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (a, b) in found.iter().zip(wanted) {
        assert!((a - b).abs() < 2e-4 * (1.0 + b.abs()), "{what}: {a} {b}");
    }
}

/// At every position, read at once or token by token, alone or beside others: what the trained decoder computes.
#[test]
fn logits_are_those_of_the_decoder_at_every_position() {
    let sequences: Vec<Vec<u32>> =
        [23u32, 1, 40].iter().map(|&n| (0..n).map(|t| (t * 17 + n) % 90).collect()).collect();
    for config in kinds() {
        let params = params(&config);
        let decoder = Decoder::<f32>::new(config.clone(), &params, None, 64).unwrap();
        let model = InferenceDecoder::new(&config, &params, 64, Precision::F32).unwrap();
        let refs: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let packed = Prompts::pack(&refs).unwrap();
        let h = decoder.hidden(packed.tokens(), None).unwrap();
        let wanted: Vec<f32> = decoder.logits(&h).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let whole = model.hidden(packed.tokens()).unwrap();
        let rows = whole.len() / config.hidden_size;
        close(&model.logits(&whole, &vec![None; rows]), &wanted, "whole");
        // The first token is read, the others are appended one by one, all sequences together as long as they last.
        let starts: Vec<&[u32]> = sequences.iter().map(|s| &s[..1]).collect();
        let (mut h, mut caches) = model.read(&starts).unwrap();
        let ranges: Vec<_> = packed.ranges().collect();
        let mut alive: Vec<usize> = (0..sequences.len()).collect();
        for position in 0.. {
            let logits = model.logits(&h, &vec![None; alive.len()]);
            for (&i, logits) in alive.iter().zip(logits.chunks_exact(90)) {
                let row = ranges[i].start + position;
                close(logits, &wanted[row * 90..(row + 1) * 90], &format!("sequence {i}, position {position}"));
            }
            alive.retain(|&i| sequences[i].len() > position + 1);
            if alive.is_empty() {
                break;
            }
            let tokens: Vec<u32> = alive.iter().map(|&i| sequences[i][position + 1]).collect();
            let mut going: Vec<&mut SequenceCache> =
                caches.iter_mut().enumerate().filter(|(i, _)| alive.contains(i)).map(|(_, c)| c).collect();
            h = model.step(&tokens, &mut going).unwrap();
        }
        assert_eq!(caches.iter().map(SequenceCache::len).collect::<Vec<_>>(), [23, 1, 40]);
    }
}

#[test]
fn shifts_and_log_probabilities_by_their_definition() {
    let config = LlamaConfig::tiny(32, 1, 50);
    let model = InferenceDecoder::new(&config, &params(&config), 8, Precision::F32).unwrap();
    let rows = LOGIT_ROWS + 3;
    let h: Vec<f32> = (0..rows * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let z: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) / 20.0).collect();
    let hidden = LogitShift::Hidden(z.clone());
    let biases = LogitShift::Biases { tokens: Arc::new(vec![4, 9]), values: vec![1.5, -2.0] };
    let shifts: Vec<Option<&LogitShift>> = (0..rows).map(|i| [None, Some(&hidden), Some(&biases)][i % 3]).collect();
    let plain = model.logits(&h, &vec![None; rows]);
    let shifted = model.logits(&h, &shifts);
    let of_z = model.logits(&z, &[None]);
    for (i, (plain, shifted)) in plain.chunks(50).zip(shifted.chunks(50)).enumerate() {
        for (token, (&a, &b)) in plain.iter().zip(shifted).enumerate() {
            let added = match (i % 3, token) {
                (1, _) => of_z[token],
                (2, 4) => 1.5,
                (2, 9) => -2.0,
                _ => 0.0,
            };
            assert!((b - a - added).abs() < 1e-5, "row {i}, token {token}: {a} {b}");
        }
    }
    let best =
        |logits: &[f32]| logits.iter().enumerate().fold(0, |best, (i, &x)| if x > logits[best] { i } else { best });
    // Of every fifth row the likeliest token.
    let target = |(i, logits): (usize, &[f32])| if i % 5 == 0 { best(logits) as u32 } else { i as u32 * 7 % 50 };
    let targets: Vec<u32> = shifted.chunks(50).enumerate().map(target).collect();
    let found = model.token_logps(&h, &shifts, &targets).unwrap();
    assert_eq!(found.len(), rows);
    for ((logits, &target), (logp, first)) in shifted.chunks(50).zip(&targets).zip(found) {
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let wanted = f64::from(logits[target as usize]) - sum.ln();
        assert!((f64::from(logp) - wanted).abs() < 1e-5, "{logp} {wanted}");
        assert_eq!(first, best(logits) == target as usize);
    }
    assert!(model.token_logps(&h[..32], &[None], &[50]).is_err());
}
