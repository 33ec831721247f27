//! Principal components of points, from their covariance matrix.

use super::points::Points;

/// The first two principal components.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    /// Coordinates of every point on the two components, about the mean.
    pub coordinates: Vec<[f64; 2]>,
    /// The components: unit vectors (2,d). The entry that is largest in size is positive, the first of equals.
    pub components: [Vec<f64>; 2],
    /// Share of the variance along each.
    pub explained: [f64; 2],
}

/// Sweeps of rotations at most; about ten suffice.
const SWEEPS: usize = 60;

/// The first two principal components of the points; with one dimension the second is zero. `None` where the points
/// do not differ.
///
/// # Source
/// K. Pearson, "On lines and planes of closest fit to systems of points in space", Philosophical Magazine 2 (1901).
pub fn pca(points: &Points) -> Option<Pca> {
    let (n, d) = (points.len() as f64, points.dimensions());
    let mut mean = vec![0.0; d];
    points.iter().for_each(|point| mean.iter_mut().zip(point).for_each(|(m, x)| *m += x / n));
    let mut covariance = vec![0.0; d * d];
    let mut apart = vec![0.0; d];
    for point in points.iter() {
        apart.iter_mut().zip(point).zip(&mean).for_each(|((a, x), m)| *a = x - m);
        for (row, a) in covariance.chunks_exact_mut(d).zip(&apart) {
            row.iter_mut().zip(&apart).for_each(|(c, b)| *c += a * b / n);
        }
    }
    let total: f64 = (0..d).map(|i| covariance[i * d + i]).sum();
    // Equal points keep a variance of this size from rounding.
    let size: f64 = mean.iter().map(|m| m * m).sum();
    if total.is_nan() || total <= 1e-24 * (1.0 + size) {
        return None;
    }
    let (values, vectors) = eigen(covariance, d);
    let component = |at: usize| -> Vec<f64> {
        let Some(vector) = vectors.get(at) else { return vec![0.0; d] };
        let largest = vector.iter().fold(0.0f64, |most, x| if x.abs() > most.abs() { *x } else { most });
        vector.iter().map(|x| if largest < 0.0 { -x } else { *x }).collect()
    };
    let components = [component(0), component(1)];
    let along =
        |point: &[f64], axis: &[f64]| -> f64 { point.iter().zip(&mean).zip(axis).map(|((x, m), a)| (x - m) * a).sum() };
    let coordinates = points.iter().map(|point| [0, 1].map(|at| along(point, &components[at]))).collect();
    let explained = [0, 1].map(|at| values.get(at).map_or(0.0, |value| (value / total).clamp(0.0, 1.0)));
    Some(Pca { coordinates, components, explained })
}

/// Eigenvalues of a symmetric matrix (d,d), falling, with their unit eigenvectors.
///
/// # Source
/// C. G. J. Jacobi's rotations, in cyclic order: G. H. Golub, C. F. Van Loan, "Matrix Computations", section 8.5.
fn eigen(mut matrix: Vec<f64>, d: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    // Row k of `vectors` becomes the k-th eigenvector.
    let mut vectors: Vec<f64> = (0..d * d).map(|at| f64::from(u8::from(at / d == at % d))).collect();
    let size: f64 = matrix.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let outside: f64 = (0..d * d).filter(|at| at / d != at % d).map(|at| matrix[at] * matrix[at]).sum();
        if outside <= 1e-30 * size {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                rotate(&mut matrix, &mut vectors, d, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| matrix[b * d + b].total_cmp(&matrix[a * d + a]));
    let values = order.iter().map(|&k| matrix[k * d + k]).collect();
    (values, order.iter().map(|&k| vectors[k * d..(k + 1) * d].to_vec()).collect())
}

/// The rotation of axes p and q after which the matrix has 0 in that place.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], d: usize, p: usize, q: usize) {
    let joint = matrix[p * d + q];
    if joint == 0.0 {
        return;
    }
    let theta = (matrix[q * d + q] - matrix[p * d + p]) / (2.0 * joint);
    // The smaller of the two angles; for a huge theta it is 1 / (2 theta), without an overflow of theta^2.
    let tangent =
        if theta.abs() < 1e150 { theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt()) } else { 0.5 / theta };
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    for k in 0..d {
        let (a, b) = (matrix[k * d + p], matrix[k * d + q]);
        matrix[k * d + p] = cosine * a - sine * b;
        matrix[k * d + q] = sine * a + cosine * b;
    }
    for rows in [matrix, vectors] {
        for k in 0..d {
            let (a, b) = (rows[p * d + k], rows[q * d + k]);
            rows[p * d + k] = cosine * a - sine * b;
            rows[q * d + k] = sine * a + cosine * b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::points::tests::sample;
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn components_by_hand() {
        // Along (1, -1): +-2 and +-1 from the mean (3, 3); along (1, 1): nothing. Variance 2 (4 + 1) 2 / 4 = 5.
        let points = Points::new(vec![1.0, 5.0, 5.0, 1.0, 2.0, 4.0, 4.0, 2.0], 2);
        let found = pca(&points).unwrap();
        let half = 0.5f64.sqrt();
        // Both entries are of the same size: the first is positive.
        assert!(close(found.components[0][0], half) && close(found.components[0][1], -half), "{found:?}");
        assert!(close(found.explained[0], 1.0) && close(found.explained[1], 0.0));
        let first: Vec<f64> = found.coordinates.iter().map(|c| c[0] / half).collect();
        assert!(first.iter().zip([-4.0, 4.0, -2.0, 2.0]).all(|(a, b)| close(*a, b)), "{first:?}");
        assert!(found.coordinates.iter().all(|c| close(c[1], 0.0)));
    }

    #[test]
    fn the_matrix_is_what_its_eigenvectors_make_of_it() {
        let d = 7;
        let entry = |i: usize, j: usize| ((i * j) as f64 + 0.3).sin() + f64::from(u8::from(i == j)) * i as f64;
        let matrix: Vec<f64> = (0..d * d).map(|at| entry(at / d, at % d)).collect();
        let (values, vectors) = eigen(matrix.clone(), d);
        assert!(values.windows(2).all(|w| w[0] >= w[1]), "{values:?}");
        for (at, entry) in matrix.into_iter().enumerate() {
            let (i, j) = (at / d, at % d);
            let again: f64 = (0..d).map(|k| values[k] * vectors[k][i] * vectors[k][j]).sum();
            assert!(close(again, entry), "{i} {j}: {again} {entry}");
        }
    }

    /// `sklearn.decomposition.PCA`, scikit-learn 1.9.1.
    #[test]
    fn components_as_scikit_learn() {
        let found = pca(&sample()).unwrap();
        assert!((found.explained[0] - 0.71065884).abs() < 1e-8 && (found.explained[1] - 0.25223858).abs() < 1e-8);
        let known = [[0.99821763, 0.04309489, -0.04128435], [-0.04160964, 0.99847851, 0.03618439]];
        for (ours, theirs) in found.components.iter().flatten().zip(known.iter().flatten()) {
            assert!((ours - theirs).abs() < 1e-8, "{ours} {theirs}");
        }
        assert!((found.coordinates[0][0] - 2.35049407).abs() < 1e-8, "{:?}", found.coordinates[0]);
        assert!((found.coordinates[1][1] - 0.8743292).abs() < 1e-7, "{:?}", found.coordinates[1]);
    }

    #[test]
    fn points_that_do_not_differ_have_no_components() {
        assert_eq!(pca(&Points::new([0.1, 0.2, 0.7].repeat(1000), 3)), None);
        assert_eq!(pca(&Points::default()), None);
        let line = pca(&Points::new(vec![1.0, 2.0, 4.0], 1)).unwrap();
        assert_eq!((line.components, line.explained), ([vec![1.0], vec![0.0]], [1.0, 0.0]));
    }
}
