//! Exact t-SNE in two dimensions.
//!
//! Every sum is taken in the order of the points, by the thread that has the row: the coordinates are the same to the
//! bit for any number of threads.

use rayon::prelude::*;

use super::points::Points;

/// Steps of gradient descent.
pub const ITERATIONS: usize = 1000;
/// Factor on the affinities in the first [`EXAGGERATED`] steps.
pub const EXAGGERATION: f64 = 12.0;
/// Steps with exaggerated affinities and low momentum.
pub const EXAGGERATED: usize = 250;
/// Momentum in the exaggerated steps, and after them.
pub const MOMENTUM: (f64, f64) = (0.5, 0.8);
/// Least step size factor of a coordinate.
const LEAST_GAIN: f64 = 0.01;
/// Halvings of the interval in which a precision is searched.
const SEARCHES: usize = 100;
/// How near ln(perplexity) the entropy of an affinity row has to come, in nats.
const TOLERANCE: f64 = 1e-7;
/// Partial sums side by side, which the compiler makes vector instructions of.
const LANES: usize = 8;

/// Points laid out in the plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Tsne {
    /// Coordinates of every point, about their mean.
    pub coordinates: Vec<[f64; 2]>,
    /// What was made small: KL(P, Q) of the points' affinities and the layout's, in nats.
    pub kl: f64,
}

/// Affinities p_ij of the points (n,n): symmetric, 0 on the diagonal, of sum 1.
///
/// Row i has p_j|i proportional to exp(-b_i |x_i - x_j|^2), with the precision b_i at which e to its entropy is the
/// perplexity; p_ij = (p_j|i + p_i|j) / 2n. A point with more copies than the perplexity shares its row among them.
///
/// # Source
/// L. van der Maaten, G. Hinton, "Visualizing data using t-SNE", JMLR 9 (2008), equations 1 and 12.
pub fn affinities(points: &Points, perplexity: f64) -> Vec<f64> {
    let n = points.len();
    let mut joint = vec![0.0; n * n];
    joint.par_chunks_exact_mut(n.max(1)).enumerate().for_each(|(i, row)| {
        row.copy_from_slice(&points.squared_distances(i));
        conditional(row, i, perplexity.ln());
    });
    for i in 0..n {
        for j in 0..i {
            let both = (joint[i * n + j] + joint[j * n + i]) / (2.0 * n as f64);
            (joint[i * n + j], joint[j * n + i]) = (both, both);
        }
    }
    joint
}

/// Turns the squared distances of point `own` into the probabilities of its neighbours, with that entropy in nats.
fn conditional(row: &mut [f64], own: usize, wanted: f64) {
    let others = |row: &[f64]| -> Vec<f64> {
        row.iter().enumerate().filter(|(j, _)| *j != own).map(|(_, distance)| *distance).collect()
    };
    // Only differences count, and with the nearest at 0 the sum is at least 1.
    let nearest = others(row).into_iter().fold(f64::INFINITY, f64::min);
    row.iter_mut().for_each(|distance| *distance -= nearest);
    let distances = others(row);
    let (mut precision, mut low, mut high) = (1.0f64, 0.0f64, f64::INFINITY);
    for _ in 0..SEARCHES {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for distance in &distances {
            let weight = (-precision * distance).exp();
            sum += weight;
            weighted += weight * distance;
        }
        let above = sum.ln() + precision * weighted / sum - wanted;
        if above.abs() < TOLERANCE {
            break;
        }
        if above > 0.0 {
            low = precision;
            precision = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * precision };
        } else {
            high = precision;
            precision = 0.5 * (low + high);
        }
    }
    row.iter_mut().for_each(|distance| *distance = (-precision * *distance).exp());
    row[own] = 0.0;
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|p| *p /= sum);
}

/// What the other points do to one, with q_ij = 1 / (1 + |y_i - y_j|^2) before it is normalised.
#[derive(Debug, Clone, Copy, Default)]
struct Pull {
    /// sum_j p_ij q_ij (y_i - y_j).
    together: [f64; 2],
    /// sum_j q_ij^2 (y_i - y_j).
    apart: [f64; 2],
    /// sum_j q_ij.
    total: f64,
}

fn pull(affinities: &[f64], xs: &[f64], ys: &[f64], i: usize) -> Pull {
    let (x, y) = (xs[i], ys[i]);
    let mut sums = [[0.0f64; LANES]; 5];
    let mut add = |lane: usize, p: f64, other_x: f64, other_y: f64| {
        let (dx, dy) = (x - other_x, y - other_y);
        let q = 1.0 / (1.0 + dx * dx + dy * dy);
        let (near, far) = (p * q, q * q);
        sums[0][lane] += near * dx;
        sums[1][lane] += near * dy;
        sums[2][lane] += far * dx;
        sums[3][lane] += far * dy;
        sums[4][lane] += q;
    };
    let (ps, rest_p) = affinities.as_chunks::<LANES>();
    let (others_x, rest_x) = xs.as_chunks::<LANES>();
    let (others_y, rest_y) = ys.as_chunks::<LANES>();
    for ((p, other_x), other_y) in ps.iter().zip(others_x).zip(others_y) {
        for lane in 0..LANES {
            add(lane, p[lane], other_x[lane], other_y[lane]);
        }
    }
    for (lane, ((p, other_x), other_y)) in rest_p.iter().zip(rest_x).zip(rest_y).enumerate() {
        add(lane, *p, *other_x, *other_y);
    }
    let [together_x, together_y, apart_x, apart_y, total] = sums.map(|lanes| lanes.iter().sum::<f64>());
    // The point itself is at distance 0: it pulls nothing, and has a q of 1.
    Pull { together: [together_x, together_y], apart: [apart_x, apart_y], total: total - 1.0 }
}

/// Gradient of KL(P, Q) by every coordinate, with the affinities times `exaggeration` (equation 5 of the paper).
fn gradient(affinities: &[f64], xs: &[f64], ys: &[f64], exaggeration: f64) -> Vec<[f64; 2]> {
    let n = xs.len();
    let pulls: Vec<Pull> = (0..n).into_par_iter().map(|i| pull(&affinities[i * n..(i + 1) * n], xs, ys, i)).collect();
    let total: f64 = pulls.iter().map(|pull| pull.total).sum();
    let along = |pull: &Pull| [0, 1].map(|c| 4.0 * (exaggeration * pull.together[c] - pull.apart[c] / total));
    pulls.iter().map(along).collect()
}

/// KL(P, Q) in nats.
fn divergence(affinities: &[f64], xs: &[f64], ys: &[f64]) -> f64 {
    let n = xs.len();
    let q = |i: usize, j: usize| 1.0 / (1.0 + (xs[i] - xs[j]).powi(2) + (ys[i] - ys[j]).powi(2));
    let of_row = |i: usize| -> (f64, f64) {
        let others = (0..n).filter(|&j| j != i);
        others.fold((0.0, 0.0), |(total, sum), j| {
            let (p, q) = (affinities[i * n + j], q(i, j));
            (total + q, if p > 0.0 { sum + p * (p / q).ln() } else { sum })
        })
    };
    let rows: Vec<(f64, f64)> = (0..n).into_par_iter().map(of_row).collect();
    let (total, sum) = rows.iter().fold((0.0, 0.0), |(total, sum), row| (total + row.0, sum + row.1));
    // The affinities sum to 1.
    sum + total.ln()
}

/// Lays points out in the plane so that near points stay near, from a `start` of small coordinates. `step` is called
/// after each of the [`ITERATIONS`].
///
/// Gradient descent with momentum and a gain for each coordinate; the learning rate is a quarter of n over the
/// exaggeration, at least 50.
///
/// # Source
/// L. van der Maaten, G. Hinton, "Visualizing data using t-SNE", JMLR 9 (2008). Learning rate and start: D. Kobak, P.
/// Berens, "The art of using t-SNE for single-cell transcriptomics", Nature Communications 10 (2019), as scikit-learn
/// has them.
pub fn tsne(points: &Points, perplexity: f64, start: &[[f64; 2]], step: &dyn Fn()) -> Tsne {
    let n = points.len().min(start.len());
    let joint = affinities(points, perplexity);
    let rate = (n as f64 / EXAGGERATION / 4.0).max(50.0);
    let mut at: [Vec<f64>; 2] = [0, 1].map(|c| start.iter().map(|point| point[c]).collect());
    let mut moved = vec![[0.0f64; 2]; n];
    let mut gains = vec![[1.0f64; 2]; n];
    for iteration in 0..ITERATIONS {
        let early = iteration < EXAGGERATED;
        let (exaggeration, momentum) = if early { (EXAGGERATION, MOMENTUM.0) } else { (1.0, MOMENTUM.1) };
        let gradient = gradient(&joint, &at[0], &at[1], exaggeration);
        for i in 0..n {
            for c in 0..2 {
                let gain = if gradient[i][c] * moved[i][c] < 0.0 { gains[i][c] + 0.2 } else { gains[i][c] * 0.8 };
                gains[i][c] = gain.max(LEAST_GAIN);
                moved[i][c] = momentum * moved[i][c] - rate * gains[i][c] * gradient[i][c];
                at[c][i] += moved[i][c];
            }
        }
        step();
    }
    let kl = divergence(&joint, &at[0], &at[1]);
    let mean = at.each_ref().map(|values| values.iter().sum::<f64>() / n.max(1) as f64);
    Tsne { coordinates: (0..n).map(|i| [0, 1].map(|c| at[c][i] - mean[c])).collect(), kl }
}

#[cfg(test)]
mod tests {
    use super::super::points::tests::sample;
    use super::*;

    /// A start on a small spiral.
    fn start(n: usize) -> Vec<[f64; 2]> {
        (0..n).map(|i| [1e-4 * (i as f64).cos() * i as f64, 1e-4 * (i as f64).sin()]).collect()
    }

    #[test]
    fn affinities_have_the_perplexity() {
        let points = sample();
        for perplexity in [1.5f64, 4.0, 7.5] {
            for i in [0, 5, 23] {
                let mut row = points.squared_distances(i);
                conditional(&mut row, i, perplexity.ln());
                let found = crate::information::perplexity(&row);
                assert!((found - perplexity).abs() < 1e-5, "{found} {perplexity}");
                assert!(row[i] == 0.0 && (row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
        let joint = affinities(&points, 5.0);
        assert!((joint.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((0..24 * 24).all(|at| joint[at] == joint[at % 24 * 24 + at / 24]), "symmetric");
        // Four copies of each of three points, perplexity 2: a point's three copies have a third each.
        let copies = Points::new([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]].concat().repeat(4), 2);
        let mut row = copies.squared_distances(0);
        conditional(&mut row, 0, 2f64.ln());
        assert!((row[3] - 1.0 / 3.0).abs() < 1e-9 && row[1] < 1e-9, "{row:?}");
    }

    #[test]
    fn the_gradient_is_that_of_the_divergence() {
        let points = sample();
        let joint = affinities(&points, 5.0);
        let at = |i: usize| f64::from(i as u32);
        let xs: Vec<f64> = (0..24).map(|i| (0.7 * at(i)).sin() * 1.5).collect();
        let ys: Vec<f64> = (0..24).map(|i| (1.9 * at(i)).cos()).collect();
        let found = gradient(&joint, &xs, &ys, 1.0);
        let h = 1e-6;
        for i in 0..24 {
            let moved = |by: f64| -> Vec<f64> {
                let mut xs = xs.clone();
                xs[i] += by;
                xs
            };
            let finite = (divergence(&joint, &moved(h), &ys) - divergence(&joint, &moved(-h), &ys)) / (2.0 * h);
            assert!((finite - found[i][0]).abs() < 1e-8 * (1.0 + finite.abs()), "{i}: {finite} {}", found[i][0]);
            let moved = |by: f64| -> Vec<f64> {
                let mut ys = ys.clone();
                ys[i] += by;
                ys
            };
            let finite = (divergence(&joint, &xs, &moved(h)) - divergence(&joint, &xs, &moved(-h))) / (2.0 * h);
            assert!((finite - found[i][1]).abs() < 1e-8 * (1.0 + finite.abs()), "{i}: {finite} {}", found[i][1]);
        }
        // Exaggerated affinities pull in proportion.
        let double = gradient(&joint, &xs, &ys, 2.0);
        let pulled = pull(&joint[..24], &xs, &ys, 0).together[0];
        assert!((double[0][0] - found[0][0] - 4.0 * pulled).abs() < 1e-12);
    }

    /// Two groups of twenty points, far apart.
    fn groups() -> Points {
        let point = |i: usize| {
            let (side, x) = ((i % 2) as f64, i as f64);
            [8.0 * side + (1.7 * x).sin(), (0.9 * x).cos(), 0.1 * x.sin()]
        };
        Points::new((0..40).flat_map(point).collect(), 3)
    }

    #[test]
    fn groups_that_are_apart_stay_apart() {
        let found = tsne(&groups(), 8.0, &start(40), &|| {});
        let flat = Points::new(found.coordinates.concat(), 2);
        let sides: Vec<Option<usize>> = (0..40).map(|i| Some(i % 2)).collect();
        let apart = super::super::points::silhouettes(&flat, &[&sides])[0].unwrap();
        assert!(apart > 0.5, "{apart}");
        let begun = divergence(&affinities(&groups(), 8.0), &vec![0.0; 40], &vec![0.0; 40]);
        assert!(found.kl < 0.5 * begun && found.kl > 0.0, "{} {begun}", found.kl);
        let mean: f64 = found.coordinates.iter().map(|c| c[0]).sum();
        assert!(mean.abs() < 1e-9);
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let laid_out = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tsne(&groups(), 8.0, &start(40), &|| {}))
        };
        let one = laid_out(1);
        assert_eq!(one, laid_out(1));
        assert_eq!(one, laid_out(2));
        assert_eq!(one, laid_out(3));
    }
}
