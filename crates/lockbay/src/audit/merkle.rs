//! Merkle trees over lines, as in RFC 6962: pure functions.
//!
//! A leaf is hashed behind a zero byte and a node behind a one, so that neither passes for the
//! other. A tree of `n` leaves has the largest power of two below `n` on its left. The tree is
//! built from the left with as many hashes at hand as it is high.

use sha2::{Digest, Sha256};

use crate::store::Revision;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of a line: what it says, and the commit that it says it in.
pub fn leaf(revision: Revision, text: &[u8]) -> Hash {
    let mut hash = Sha256::new_with_prefix([0]);
    hash.update(revision.number().to_be_bytes());
    hash.update(text);
    hash.finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new_with_prefix([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// A tree that grows to the right.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Roots of the full subtrees, from the left, as many as the count has ones.
    roots: Vec<Hash>,
    count: u64,
}

impl Tree {
    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut root = leaf;
        let mut size = self.count;
        while size & 1 == 1 {
            if let Some(left) = self.roots.pop() {
                root = node(&left, &root);
            }
            size >>= 1;
        }
        self.roots.push(root);
        self.count += 1;
    }

    /// How many leaves it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Its root; of no leaves the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        match roots.next() {
            Some(last) => roots.fold(*last, |right, left| node(left, &right)),
            None => Sha256::digest([]).into(),
        }
    }
}

/// The hashes by which a leaf leads to the root, from below.
pub fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let root_of = |leaves: &[Hash]| {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    };
    let (mut path, other) = match index.checked_sub(left.len()) {
        None => (self::path(left, index), root_of(right)),
        Some(index) => (self::path(right, index), root_of(left)),
    };
    path.push(other);
    path
}

/// The root that a leaf at this place in a tree of `count` leaves leads to by a path; nothing if
/// there is no such place or path.
pub fn climb(leaf: Hash, index: u64, count: u64, path: &[Hash]) -> Option<Hash> {
    if index >= count {
        return None;
    }
    let (mut place, mut last, mut root) = (index, count - 1, leaf);
    for other in path {
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            root = node(other, &root);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            root = node(&root, other);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of the RFC, word for word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf(Revision::new(n), &n.to_be_bytes())).collect()
    }

    #[test]
    fn a_tree_that_grows_has_the_root_of_the_definition() {
        let mut tree = Tree::default();
        assert_eq!(tree.root(), by_definition(&[]));
        for count in 1..300 {
            let leaves = leaves(count);
            tree.push(leaves[leaves.len() - 1]);
            assert_eq!((tree.root(), tree.count()), (by_definition(&leaves), count));
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_leads_to_the_root_and_to_no_other() {
        for count in 1..=64u64 {
            let leaves = leaves(count);
            let root = by_definition(&leaves);
            for (index, leaf) in (0..).zip(&leaves) {
                let path = path(&leaves, usize::try_from(index).unwrap());
                assert_eq!(climb(*leaf, index, count, &path), Some(root), "{index} of {count}");
                for other in (0..=count).filter(|other| *other != index) {
                    assert_ne!(climb(*leaf, other, count, &path), Some(root), "{other}");
                }
                let mut longer = path.clone();
                longer.push(root);
                assert_eq!(climb(*leaf, index, count, &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(climb(*leaf, index, count, shorter), Some(root));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_leaf_or_path_leads_elsewhere(
            count in 1u64..500,
            place in any::<prop::sample::Index>(),
            bit in 0usize..256,
            at in any::<prop::sample::Index>(),
        ) {
            let leaves = leaves(count);
            let index = place.index(leaves.len());
            let mut path = path(&leaves, index);
            let root = by_definition(&leaves);
            let place = index as u64;
            prop_assert_eq!(climb(leaves[index], place, count, &path), Some(root));
            let mut changed = leaves[index];
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(climb(changed, place, count, &path), Some(root));
            if !path.is_empty() {
                let at = at.index(path.len());
                path[at][bit / 8] ^= 1 << (bit % 8);
                prop_assert_ne!(climb(leaves[index], place, count, &path), Some(root));
            }
        }
    }
}
