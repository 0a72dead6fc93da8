//! Chance that depends on names, not on the order of calls: the same seed, device and question give the same answer
//! however tasks interleave.

use uuid::Uuid;

const NAMESPACE: Uuid = Uuid::from_u128(0x5fe1_7d0c_91a4_4c0e_8d55_f1ee_73e4_d1ce);

/// The chance of one device (or of the whole fleet, for what all devices share).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dice(Uuid);

impl Dice {
    /// What all devices of a seed share.
    #[must_use]
    pub fn of_fleet(seed: u64) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, format!("fleet {seed}").as_bytes()))
    }

    /// What one device of a seed has of its own.
    #[must_use]
    pub fn of_device(seed: u64, index: u32) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, format!("device {seed} {index}").as_bytes()))
    }

    /// A stable id for a named thing.
    #[must_use]
    pub fn uuid(&self, name: &str) -> Uuid {
        Uuid::new_v5(&self.0, name.as_bytes())
    }

    /// 0 (included) to 1 (excluded).
    #[must_use]
    pub fn fraction(&self, name: &str) -> f64 {
        let bytes = self.uuid(name).into_bytes();
        // Bytes 0 to 5 are all chance; 6 and 8 carry the UUID's version and variant.
        let number = bytes[..6].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        #[allow(clippy::cast_precision_loss)] // 48 bits fit
        let fraction = number as f64 / (1_u64 << 48) as f64;
        fraction
    }

    #[must_use]
    pub fn chance(&self, name: &str, probability: f64) -> bool {
        self.fraction(name) < probability
    }

    /// `low` (included) to `high` (excluded).
    #[must_use]
    pub fn between(&self, name: &str, low: u64, high: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        // spans are small
        let step = (self.fraction(name) * (high - low) as f64) as u64;
        low + step
    }

    /// One of `items`.
    #[must_use]
    pub fn pick<'a, T>(&self, name: &str, items: &'a [T]) -> &'a T {
        let at = usize::try_from(self.between(name, 0, items.len() as u64)).unwrap_or(0);
        &items[at]
    }

    /// One of `items`, each as likely as its weight.
    #[must_use]
    pub fn pick_weighted<'a, T>(&self, name: &str, items: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
        let total: u64 = items.iter().map(|item| u64::from(weight(item))).sum();
        let mut rest = self.between(name, 0, total);
        for item in items {
            let own = u64::from(weight(item));
            if rest < own {
                return item;
            }
            rest -= own;
        }
        &items[items.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_question_has_the_same_answer() {
        let dice = Dice::of_device(7, 42);
        assert_eq!(dice.fraction("cause"), Dice::of_device(7, 42).fraction("cause"));
        assert_ne!(dice.fraction("cause"), Dice::of_device(7, 43).fraction("cause"));
        assert_ne!(dice.fraction("cause"), Dice::of_device(8, 42).fraction("cause"));
    }

    #[test]
    fn weights_are_kept() {
        let items = [("often", 90_u32), ("seldom", 10), ("never", 0)];
        let mut counts = [0_u32; 3];
        for index in 0..2000 {
            let (name, _) = Dice::of_device(1, index).pick_weighted("x", &items, |item| item.1);
            let at = items.iter().position(|item| item.0 == *name).expect("one of them");
            counts[at] += 1;
        }
        assert!((1700..1900).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
    }
}
