//! The likeliest tokens of a large vocabulary, without sorting it.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;

/// Numbers that are compared at once; enough for the compiler to use whole vector registers.
const LANES: usize = 16;

/// The largest number; what is not a number counts as none.
pub(super) fn largest(logits: &[f32]) -> f32 {
    // Written so that it becomes one instruction; `f32::max` does not.
    let larger = |most: f32, one: f32| if one > most { one } else { most };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied();
    for chunk in chunks {
        for (most, one) in lanes.iter_mut().zip(chunk) {
            *most = larger(*most, *one);
        }
    }
    lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, larger)
}

/// The `count` likeliest tokens in any order, with the logits in `changed` (by token, ascending) instead of those in
/// `logits`. Of equals the first.
pub(super) fn likeliest(logits: &[f32], changed: &[(usize, f32)], count: usize) -> Vec<LlamaTokenData> {
    let kept = if count == 1 {
        likeliest_one(logits, changed).into_iter().collect()
    } else {
        let mut best = Best::new(count.min(logits.len()));
        let mut changes = changed.iter().copied().peekable();
        for (index, logit) in logits.iter().enumerate() {
            let logit = changes.next_if(|(changed, _)| *changed == index).map_or(*logit, |(_, logit)| logit);
            best.offer(index, logit);
        }
        best.settle();
        best.kept
    };
    let data = |(index, logit): (usize, f32)| {
        i32::try_from(index).ok().map(|index| LlamaTokenData::new(LlamaToken(index), logit, 0.0))
    };
    kept.into_iter().filter_map(data).collect()
}

/// Between the changed tokens nothing but the largest matters.
fn likeliest_one(logits: &[f32], changed: &[(usize, f32)]) -> Option<(usize, f32)> {
    let mut best: Option<(usize, f32)> = None;
    let mut offer = |index: usize, logit: f32| {
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((index, logit));
        }
    };
    let mut start = 0;
    for (index, logit) in changed.iter().copied().chain([(logits.len(), f32::NEG_INFINITY)]) {
        let between = logits.get(start..index).unwrap_or_default();
        let most = largest(between);
        if let Some(place) = between.iter().position(|one| *one == most) {
            offer(start + place, most);
        }
        if index < logits.len() {
            offer(index, logit);
        }
        start = index + 1;
    }
    best
}

/// Collects candidates and throws out the lesser half whenever there are twice as many as wanted.
struct Best {
    count: usize,
    /// What is not above this cannot be among them.
    least: f32,
    kept: Vec<(usize, f32)>,
}

impl Best {
    fn new(count: usize) -> Self {
        Self { count, least: f32::NEG_INFINITY, kept: Vec::with_capacity(count.saturating_mul(2).min(1 << 19)) }
    }

    fn offer(&mut self, index: usize, logit: f32) {
        if !logit.is_nan() && (logit > self.least || self.kept.len() < self.count) {
            self.kept.push((index, logit));
            if self.kept.len() >= self.count.saturating_mul(2).max(2) {
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        if self.count == 0 || self.kept.len() <= self.count {
            return;
        }
        let order = |one: &(usize, f32), other: &(usize, f32)| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0));
        let (_, last, _) = self.kept.select_nth_unstable_by(self.count - 1, order);
        self.least = last.1;
        self.kept.truncate(self.count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(mut found: Vec<LlamaTokenData>) -> Vec<(i32, f32)> {
        found.sort_by(|one, other| other.logit().total_cmp(&one.logit()).then(one.id().0.cmp(&other.id().0)));
        found.iter().map(|one| (one.id().0, one.logit())).collect()
    }

    proptest! {
        #[test]
        fn finds_what_sorting_finds(
            numbers in proptest::collection::vec(-20i8..20, 1..200),
            changes in proptest::collection::btree_map(0usize..200, -20i8..20, 0..6),
            count in 1usize..40,
        ) {
            let logits: Vec<f32> = numbers.iter().map(|number| f32::from(*number)).collect();
            let changed: Vec<(usize, f32)> = changes
                .into_iter()
                .filter(|(index, _)| *index < logits.len())
                .map(|(index, number)| (index, f32::from(number)))
                .collect();
            let mut all: Vec<(i32, f32)> = (0i32..).zip(logits.iter().copied()).collect();
            changed.iter().for_each(|(index, logit)| all[*index].1 = *logit);
            all.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
            for count in [1, count] {
                let wanted: Vec<_> = all.iter().copied().take(count).collect();
                prop_assert_eq!(ids(likeliest(&logits, &changed, count)), wanted);
            }
            prop_assert_eq!(likeliest(&logits, &changed, usize::MAX).len(), logits.len());
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_the_largest() {
        assert_eq!(largest(&[f32::NAN, 1.0, f32::NAN]), 1.0);
        assert_eq!(likeliest(&[f32::NAN, 1.0], &[], 1)[0].id().0, 1);
        assert!(likeliest(&[f32::NAN], &[], 1).is_empty());
        assert!(likeliest(&[f32::NAN, 1.0], &[], 2).len() == 1);
    }
}
