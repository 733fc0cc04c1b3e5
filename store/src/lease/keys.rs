//! The keys attached to one lease. Most leases hold one or a few keys and there may be a million leases, so
//! a few keys are a plain vector, and only many become a tree.

use bytes::Bytes;
use std::collections::BTreeSet;

const FEW: usize = 16;

#[derive(Debug)]
pub(super) enum Keys {
    /// At most `FEW`, in no order.
    Few(Vec<Bytes>),
    /// More, sorted.
    Many(BTreeSet<Bytes>),
}

impl Keys {
    pub fn new() -> Self {
        Keys::Few(Vec::new())
    }

    /// `key` must not be attached already.
    pub fn insert(&mut self, key: Bytes) {
        match self {
            Keys::Few(keys) if keys.len() < FEW => keys.push(key),
            Keys::Few(keys) => {
                let mut many: BTreeSet<Bytes> = keys.drain(..).collect();
                many.insert(key);
                *self = Keys::Many(many);
            }
            Keys::Many(keys) => {
                keys.insert(key);
            }
        }
    }

    pub fn remove(&mut self, key: &[u8]) {
        match self {
            Keys::Few(keys) => {
                if let Some(at) = keys.iter().position(|other| other == key) {
                    keys.swap_remove(at);
                }
            }
            Keys::Many(keys) => {
                keys.remove(key);
            }
        }
    }

    pub fn sorted(&self) -> Vec<Bytes> {
        match self {
            Keys::Few(keys) => {
                let mut keys = keys.clone();
                keys.sort_unstable();
                keys
            }
            Keys::Many(keys) => keys.iter().cloned().collect(),
        }
    }
}
