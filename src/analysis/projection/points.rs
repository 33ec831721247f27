//! Points in a space of many dimensions, and how well their labels separate them.

use rayon::prelude::*;

/// Points, one a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Points {
    /// Coordinates, point by point (n,d).
    values: Vec<f64>,
    /// d.
    dimensions: usize,
}

impl Points {
    /// Points from their coordinates (n,d); a rest that fills no point is left out.
    pub fn new(mut values: Vec<f64>, dimensions: usize) -> Points {
        values.truncate(values.len().checked_div(dimensions).unwrap_or(0) * dimensions);
        Points { values, dimensions }
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dimensions).unwrap_or(0)
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of coordinates of a point.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The coordinates of a point.
    pub fn point(&self, i: usize) -> &[f64] {
        &self.values[i * self.dimensions..(i + 1) * self.dimensions]
    }

    /// The points, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f64]> {
        (0..self.len()).map(|i| self.point(i))
    }

    /// Squared Euclidean distances of point `i` to all points (n).
    pub fn squared_distances(&self, i: usize) -> Vec<f64> {
        let own = self.point(i);
        self.iter().map(|other| own.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum()).collect()
    }
}

/// Mean silhouette of the points under each labelling, by Euclidean distance: 1 where labels are far apart and each
/// is narrow, about 0 where they overlap, negative where points lie nearer to another label than to their own.
///
/// For a point with mean distance a to the others of its label and b to those of the nearest other label it is
/// (b - a) / max(a, b), and 0 where it is the only one of its label. Points without a label are left out of that
/// labelling. `None` where fewer than two labels occur, or every point has a label of its own.
///
/// # Source
/// P. J. Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", Journal of
/// Computational and Applied Mathematics 20 (1987).
pub fn silhouettes(points: &Points, labellings: &[&[Option<usize>]]) -> Vec<Option<f64>> {
    let n = points.len();
    let sizes: Vec<Vec<usize>> = labellings
        .iter()
        .map(|labels| {
            let mut sizes = vec![0; labels.iter().flatten().max().map_or(0, |largest| largest + 1)];
            labels.iter().flatten().for_each(|&label| sizes[label] += 1);
            sizes
        })
        .collect();
    let of_point = |i: usize| -> Vec<f64> {
        let distances: Vec<f64> = points.squared_distances(i).into_iter().map(f64::sqrt).collect();
        labellings.iter().zip(&sizes).map(|(labels, sizes)| silhouette(i, labels, sizes, &distances)).collect()
    };
    let each: Vec<Vec<f64>> = (0..n).into_par_iter().map(of_point).collect();
    let mean = |(at, sizes): (usize, &Vec<usize>)| {
        let labelled: usize = sizes.iter().sum();
        let occurring = sizes.iter().filter(|size| **size > 0).count();
        let sum: f64 = each.iter().map(|of| of[at]).sum();
        (occurring > 1 && occurring < labelled).then(|| sum / labelled as f64)
    };
    sizes.iter().enumerate().map(mean).collect()
}

/// Silhouette of one point; 0 where it has no label.
fn silhouette(i: usize, labels: &[Option<usize>], sizes: &[usize], distances: &[f64]) -> f64 {
    let Some(own) = labels[i].filter(|&own| sizes[own] > 1) else { return 0.0 };
    let mut sums = vec![0.0; sizes.len()];
    for (label, distance) in labels.iter().zip(distances) {
        if let Some(label) = label {
            sums[*label] += distance;
        }
    }
    let inside = sums[own] / (sizes[own] - 1) as f64;
    let others = (0..sizes.len()).filter(|&label| label != own && sizes[label] > 0);
    let nearest = others.map(|label| sums[label] / sizes[label] as f64).fold(f64::INFINITY, f64::min);
    let largest = inside.max(nearest);
    if largest > 0.0 && largest.is_finite() { (nearest - inside) / largest } else { 0.0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 24 points in three dimensions; every third lies apart.
    pub fn sample() -> Points {
        let point = |i: u32| {
            let x = f64::from(i);
            [(1.3 * x).cos() + if i.is_multiple_of(3) { 2.0 } else { 0.0 }, (2.1 * x).sin(), f64::from(i % 5) / 5.0]
        };
        Points::new((0..24).flat_map(point).collect(), 3)
    }

    #[test]
    fn silhouettes_by_hand() {
        // On a line: 0 and 1 against 4 and 6. Point 0: a = 1, b = 5, 0.8; point 1: a = 1, b = 4, 0.75;
        // point 4: a = 2, b = 3.5, 1.5 / 3.5; point 6: a = 2, b = 5.5, 3.5 / 5.5.
        let points = Points::new(vec![0.0, 1.0, 4.0, 6.0], 1);
        let labels = [Some(0), Some(0), Some(1), Some(1)];
        // Without point 6 point 4 is alone: 0; points 0 and 1 have b = 4 and 3.
        let some = [Some(2), Some(2), Some(0), None];
        let one = [Some(0); 4];
        let own = [Some(0), Some(1), Some(2), Some(3)];
        let found = silhouettes(&points, &[&labels, &some, &one, &own]);
        let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-12;
        assert!(close(found[0], (0.8 + 0.75 + 1.5 / 3.5 + 3.5 / 5.5) / 4.0), "{found:?}");
        assert!(close(found[1], (0.75 + 2.0 / 3.0) / 3.0), "{found:?}");
        assert_eq!(found[2..], [None, None]);
        // Points at the same place have no distances to compare.
        let same = Points::new(vec![1.0; 4], 1);
        assert_eq!(silhouettes(&same, &[&labels]), [Some(0.0)]);
        assert_eq!(silhouettes(&Points::default(), &[&[]]), [None]);
    }

    /// `sklearn.metrics.silhouette_score`, scikit-learn 1.9.1.
    #[test]
    fn silhouettes_as_scikit_learn() {
        let labels: Vec<Option<usize>> = (0..24).map(|i| Some(if i % 3 == 0 { 0 } else { 2 - i % 2 })).collect();
        let found = silhouettes(&sample(), &[&labels])[0].unwrap();
        assert!((found - 0.0971381935875238).abs() < 1e-12, "{found}");
    }
}
