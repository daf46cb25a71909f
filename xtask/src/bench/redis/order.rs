//! Counts orders that started before an earlier one.

/// Pairs of orders, and how many of them started in the other order than they were accepted in.
#[derive(Debug, PartialEq, Eq)]
pub struct Inversions {
    pub pairs: u64,
    pub inverted: u64,
    /// Most places by which an order started too late.
    pub distance: usize,
}

/// Compares the order of first starts with that of the ids.
pub fn inversions(started: &[u64]) -> Inversions {
    let mut sorted = started.to_vec();
    sorted.sort_unstable();
    let ranks = started
        .iter()
        .map(|id| sorted.binary_search(id).unwrap_or_else(|place| place));
    // Counts of started orders by rank, as a Fenwick tree.
    let mut tree = vec![0_u64; started.len() + 1];
    let (mut inverted, mut distance) = (0, 0);
    for (place, rank) in ranks.enumerate() {
        let mut earlier = 0;
        let mut at = rank + 1;
        while at > 0 {
            earlier += tree[at];
            at &= at - 1;
        }
        inverted += place as u64 - earlier;
        distance = distance.max(place.saturating_sub(rank));
        let mut at = rank + 1;
        while at < tree.len() {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    let count = started.len() as u64;
    Inversions {
        pairs: count * count.saturating_sub(1) / 2,
        inverted,
        distance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_that_started_the_other_way_round_counts() {
        let found = inversions(&[10, 30, 40, 20, 50]);
        assert_eq!(
            found,
            Inversions {
                pairs: 10,
                inverted: 2,
                distance: 2
            }
        );
        assert_eq!(inversions(&[]).pairs, 0);
        assert_eq!(inversions(&[3, 2, 1]).inverted, 3);
    }
}
