use super::*;
use crate::nn::check;

const HEADS: Heads = Heads { query: 4, kv: 2, size: 4 };

/// Two groups: prompt, two responses that share it; and a lone sequence longer than a block.
fn layout() -> (Vec<Segment>, usize) {
    let s = |start, len, prefix_start, prefix_len, group| Segment { start, len, prefix_start, prefix_len, group };
    let long = BLOCK / 2 + 5;
    (vec![s(0, 3, 0, 0, 0), s(3, 4, 0, 3, 0), s(7, 2, 0, 3, 0), s(9, long, 0, 0, 1)], 9 + long)
}

/// The definition, one row and head at a time.
fn plain(q: &[f64], k: &[f64], v: &[f64], segments: &[Segment], window: usize) -> Vec<f64> {
    let (d, qw, kvw) = (HEADS.size, HEADS.q_width(), HEADS.kv_width());
    let mut out = vec![0.0; q.len()];
    for s in segments {
        for i in 0..s.len {
            let mut keys: Vec<usize> =
                (s.prefix_start..s.prefix_start + s.prefix_len).chain(s.start..=s.start + i).collect();
            if window > 0 {
                keys.drain(..keys.len().saturating_sub(window));
            }
            for h in 0..HEADS.query {
                let g = h / (HEADS.query / HEADS.kv);
                let query = &q[(s.start + i) * qw + h * d..][..d];
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|&j| (check::dot(query, &k[j * kvw + g * d..][..d]) / (d as f64).sqrt()).exp())
                    .collect();
                let total: f64 = scores.iter().sum();
                for (&j, score) in keys.iter().zip(&scores) {
                    for x in 0..d {
                        out[(s.start + i) * qw + h * d + x] += score / total * v[j * kvw + g * d + x];
                    }
                }
            }
        }
    }
    out
}

/// No window, only oneself, one within the prompt, one across the border of prompt and response, one across
/// blocks, one that nothing leaves.
const WINDOWS: [usize; 6] = [0, 1, 2, 5, BLOCK / 2 - 7, 10_000];

fn scheme(segments: &[Segment], window: usize) -> Scheme<'_> {
    Scheme { segments, heads: HEADS, window, precision: Precision::F32 }
}

fn run(q: &[f64], k: &[f64], v: &[f64], scheme: &Scheme<'_>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut lse) = (vec![f64::NAN; n * HEADS.q_width()], vec![0.0; n * HEADS.query]);
    forward(q, k, v, &mut out, &mut lse, scheme);
    (out, lse)
}

#[test]
fn agrees_with_the_definition() {
    let (segments, n) = layout();
    let (q, k, v) = (
        check::numbers("q", n * HEADS.q_width()),
        check::numbers("k", n * HEADS.kv_width()),
        check::numbers("v", n * HEADS.kv_width()),
    );
    for window in WINDOWS {
        let (out, _) = run(&q, &k, &v, &scheme(&segments, window), n);
        for (a, b) in out.iter().zip(plain(&q, &k, &v, &segments, window)) {
            assert!((a - b).abs() < 1e-12, "{window}: {a} {b}");
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    for window in WINDOWS {
        gradients_match(window);
    }
}

fn gradients_match(window: usize) {
    let (segments, n) = layout();
    let scheme = scheme(&segments, window);
    let (qn, kn) = (n * HEADS.q_width(), n * HEADS.kv_width());
    let (q, k, v, dout) =
        (check::numbers("q", qn), check::numbers("k", kn), check::numbers("v", kn), check::numbers("do", qn));
    let (out, lse) = run(&q, &k, &v, &scheme, n);
    let (mut dq, mut dk, mut dv) = (vec![f64::NAN; qn], vec![0.0; kn], vec![0.0; kn]);
    let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse, dout: &dout };
    backward(&saved, &mut dq, &mut dk, &mut dv, &scheme);
    // The head of each array covers the shared prompt and both responses.
    let part = 9 * HEADS.kv_width();
    let f = |q: &[f64], k: &[f64], v: &[f64]| check::dot(&run(q, k, v, &scheme, n).0, &dout);
    let with = |whole: &[f64], head: &[f64]| [head, &whole[part..]].concat();
    check::gradient("dq", &q[..part], &dq[..part], |x| f(&with(&q, x), &k, &v));
    check::gradient("dk", &k[..part], &dk[..part], |x| f(&q, &with(&k, x), &v));
    check::gradient("dv", &v[..part], &dv[..part], |x| f(&q, &k, &with(&v, x)));
    // And the tail of the long sequence crosses a block border.
    let tail = kn - 8;
    let with = |x: &[f64]| [&k[..tail], x].concat();
    check::gradient("dk tail", &k[tail..], &dk[tail..], |x| f(&q, &with(x), &v));
}

#[test]
fn gradients_of_shared_prompts_are_those_of_unshared_ones() {
    // Prompt and responses longer than a block; then the prompt once more for each response, whose sums over
    // the copies must agree.
    let (p, c, r) = (BLOCK / 2 + 10, BLOCK / 2 + 20, BLOCK + 1);
    let n = p + c + r;
    let s = |start, len, prefix_len, group| Segment { start, len, prefix_start: 0, prefix_len, group };
    let once = [s(0, p, 0, 0), s(p, c, p, 0), s(p + c, r, p, 0)];
    let twice = [s(0, p + c, 0, 0), s(p + c, p + r, 0, 1)];
    let rows: Vec<usize> = (0..p + c).chain(0..p).chain(p + c..n).collect();
    let (qw, kvw) = (HEADS.q_width(), HEADS.kv_width());
    let [q, mut dout] = ["q", "do"].map(|key| check::numbers(key, n * qw));
    let [k, v] = ["k", "v"].map(|key| check::numbers(key, n * kvw));
    // Rows of the prompt stand twice in the other layout: their own outputs must not count twice.
    dout[..p * qw].fill(0.0);
    let gradients = |q: &[f64], k: &[f64], v: &[f64], dout: &[f64], scheme: Scheme<'_>| {
        let (out, lse) = run(q, k, v, &scheme, q.len() / qw);
        let (mut dq, mut dk, mut dv) = (vec![f64::NAN; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let saved = Saved { q, k, v, out: &out, lse: &lse, dout };
        backward(&saved, &mut dq, &mut dk, &mut dv, &scheme);
        [dq, dk, dv]
    };
    let spread = |x: &[f64], w: usize| -> Vec<f64> { rows.iter().flat_map(|&i| x[i * w..][..w].to_vec()).collect() };
    let folded = |x: &[f64], w: usize| -> Vec<f64> {
        let mut sum = vec![0.0; n * w];
        for (from, &to) in rows.iter().enumerate() {
            (0..w).for_each(|j| sum[to * w + j] += x[from * w + j]);
        }
        sum
    };
    for window in [0, 1, 2, 50, BLOCK / 2 + 3, BLOCK + 70, 10_000] {
        let shared = gradients(&q, &k, &v, &dout, scheme(&once, window));
        let [q, k, v, dout] = [spread(&q, qw), spread(&k, kvw), spread(&v, kvw), spread(&dout, qw)];
        let apart = gradients(&q, &k, &v, &dout, scheme(&twice, window));
        for ((a, b), w) in shared.iter().zip(&apart).zip([qw, kvw, kvw]) {
            let worst = a.iter().zip(folded(b, w)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "window {window}: {worst}");
        }
    }
}

#[test]
fn the_work_grows_with_the_window_and_not_with_the_length() {
    let products = |len: usize, window: usize| -> usize {
        let segment = Segment { start: 0, len, prefix_start: 0, prefix_len: 0, group: 0 };
        Block::of(&scheme(&[], window), &segment).map(|b| b.rows * b.width()).sum()
    };
    let (short, long) = (products(10 * BLOCK, BLOCK), products(20 * BLOCK, BLOCK));
    assert!(long < 2 * short + 2 * BLOCK * BLOCK, "{short} {long}");
    assert!(products(20 * BLOCK, BLOCK) < products(20 * BLOCK, 0) / 4);
    // A response far behind its prompt reads nothing of it.
    let far = Segment { start: 500, len: 300, prefix_start: 0, prefix_len: 500, group: 0 };
    let last = Block::of(&scheme(&[], 50), &far).last().unwrap();
    assert!(last.keys[0].1 == 0 && last.keys[1].1 < 50 + BLOCK, "{last:?}");
}

#[test]
fn bfloat16_stays_within_its_precision() {
    let (segments, n) = layout();
    let narrow = |key: &str, n: usize| -> Vec<f32> {
        check::numbers(key, n).into_iter().map(|x| half::bf16::from_f64(x).to_f32()).collect()
    };
    let (qn, kn) = (n * HEADS.q_width(), n * HEADS.kv_width());
    let (q, k, v, dout) = (narrow("q", qn), narrow("k", kn), narrow("v", kn), narrow("do", qn));
    let run = |precision| {
        let scheme = Scheme { precision, ..scheme(&segments, 5) };
        let (mut out, mut lse) = (vec![0f32; qn], vec![0f32; n * HEADS.query]);
        forward(&q, &k, &v, &mut out, &mut lse, &scheme);
        let (mut dq, mut dk, mut dv) = (vec![0f32; qn], vec![0f32; kn], vec![0f32; kn]);
        let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse, dout: &dout };
        backward(&saved, &mut dq, &mut dk, &mut dv, &scheme);
        [out, dq, dk, dv]
    };
    for (exact, rounded) in run(Precision::F32).iter().zip(run(Precision::Bf16)) {
        let size = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = exact.iter().zip(&rounded).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < size / 64.0, "{worst} of {size}");
    }
}
