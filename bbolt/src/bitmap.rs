//! A set of page numbers below the high-water mark.

pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// `size` pages, none of them in the set.
    pub fn new(size: u64) -> Bitmap {
        Bitmap { words: vec![0; size.div_ceil(64) as usize] }
    }

    /// Whether `id` was new. It must be below the size.
    pub fn insert(&mut self, id: u64) -> bool {
        let (word, bit) = (&mut self.words[(id / 64) as usize], 1 << (id % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub fn contains(&self, id: u64) -> bool {
        self.words[(id / 64) as usize] & (1 << (id % 64)) != 0
    }

    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_new() {
        let mut set = Bitmap::new(130);
        for id in [0, 63, 64, 129] {
            assert!(!set.contains(id));
            assert!(set.insert(id));
            assert!(!set.insert(id));
            assert!(set.contains(id));
        }
        assert_eq!(set.len(), 4);
    }
}
