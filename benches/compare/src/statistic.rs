//! Medians, and what numbers need on the way to them.

/// The middle of some values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Statistic {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Statistic {
    /// None of no values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(*sorted.get(middle - 1)?, upper),
            _ => upper,
        };
        Some(Self { median, min, max })
    }

    /// The value below which this share of them is.
    pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let above = values.iter().filter(|value| Self::rank(&sorted, **value) <= share);
        above.copied().max_by(f64::total_cmp)
    }

    /// The share of values that are not above this one.
    fn rank(sorted: &[f64], value: f64) -> f64 {
        count(sorted.partition_point(|other| *other <= value)) / count(sorted.len())
    }
}

/// MiB of octets.
pub(crate) fn mebi(octets: u64) -> f64 {
    count(usize::try_from(octets).unwrap_or(usize::MAX)) / 1024.0 / 1024.0
}

/// A count as a number to divide by.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_between_the_two() {
        assert_eq!(Statistic::of(&[]), None);
        let odd = Statistic::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert!((Statistic::of(&[1.0, 4.0, 2.0, 3.0]).unwrap().median - 2.5).abs() < 1e-9);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(Statistic::quantile(&hundred, 0.99), Some(99.0));
    }
}
