//! Ranges: of the present and the past, filtered, sorted and cut as etcd does.
//!
//! etcd reads no further than the limit only where there is neither an order nor a filter; then a sort by something
//! other than the key sees those first keys alone. Equals may come in any order: they are put into the order that was
//! observed.

use std::{collections::HashMap, ops::Bound};

use super::State;
use crate::history::{
    Key, Refusal, Revision, Value,
    request::{Bounds, End, Kv, Range, Ranged, SortOrder, SortTarget, Span},
};

impl State {
    /// Refuses revisions that cannot be read; 0 is the newest.
    pub(super) fn check_revision(&self, revision: Revision) -> Result<(), Refusal> {
        match revision {
            0 => Ok(()),
            _ if revision > self.revision => Err(Refusal::FutureRevision),
            _ if revision < self.compacted => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    /// Keys of `span` that were there at revision `at`, in order.
    pub(super) fn live(&self, span: &Span, at: Revision) -> impl Iterator<Item = &Kv> {
        let start = span.start;
        let end = match span.end {
            End::Single => start.0.checked_add(1).map(Key),
            // An end before the start is an empty range.
            End::Before(end) => Some(end.max(start)),
            End::Open => None,
        };
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let stored = self.keys.range((Bound::Included(start), end));
        stored.filter_map(move |(_, newest)| self.version_at(newest, at))
    }

    /// The answer when the store is at revision `now`; the revision asked for was checked.
    pub(super) fn range(&self, range: &Range, now: Revision, observed: Option<&Ranged>) -> Ranged {
        let at = if range.revision > 0 { range.revision } else { now };
        if range.span.end == End::Single && range.bounds.is_none() {
            let found = self.keys.get(&range.span.start).and_then(|newest| self.version_at(newest, at));
            let shown = found.filter(|_| !range.count_only);
            let kvs = shown.map(|kv| [shown_kv(*kv, range.keys_only)].into()).unwrap_or_default();
            return Ranged { kvs, count: i64::from(found.is_some()), more: false };
        }
        let live = self.live(&range.span, at);
        if range.count_only {
            return Ranged { count: live.count() as i64, ..Ranged::default() };
        }
        let mut kvs: Vec<Kv> = live.copied().collect();
        let count = kvs.len() as i64;
        let limit =
            if range.limit > 0 { usize::try_from(range.limit).unwrap_or(usize::MAX) } else { usize::MAX };
        if range.order == SortOrder::None && range.bounds.is_none() {
            kvs.truncate(limit.saturating_add(1));
        }
        if let Some(bounds) = &range.bounds {
            kvs.retain(|kv| within(kv, bounds));
        }
        sort(&mut kvs, range, observed);
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        Ranged { kvs: kvs.into_iter().map(|kv| shown_kv(kv, range.keys_only)).collect(), count, more }
    }
}

fn shown_kv(kv: Kv, keys_only: bool) -> Kv {
    if keys_only { Kv { value: Value::EMPTY, ..kv } } else { kv }
}

fn within(kv: &Kv, bounds: &Bounds) -> bool {
    let between = |number: Revision, min: Revision, max: Revision| {
        (min == 0 || number >= min) && (max == 0 || number <= max)
    };
    between(kv.mod_revision, bounds.min_mod, bounds.max_mod)
        && between(kv.create_revision, bounds.min_create, bounds.max_create)
}

fn sort(kvs: &mut [Kv], range: &Range, observed: Option<&Ranged>) {
    if range.target == SortTarget::Key {
        if range.order == SortOrder::Descend {
            kvs.reverse();
        }
        return;
    }
    let places: HashMap<Key, usize> = match observed {
        Some(observed) => observed.kvs.iter().enumerate().map(|(place, kv)| (kv.key, place)).collect(),
        None => HashMap::new(),
    };
    let place = |kv: &Kv| places.get(&kv.key).copied().unwrap_or(usize::MAX);
    let weight = |kv: &Kv| match range.target {
        SortTarget::Version => kv.version,
        SortTarget::Create => kv.create_revision,
        SortTarget::Mod => kv.mod_revision,
        SortTarget::Value => i64::from(kv.value.0),
        SortTarget::Key => i64::from(kv.key.0),
    };
    kvs.sort_by(|a, b| {
        let order = weight(a).cmp(&weight(b));
        let order = if range.order == SortOrder::Descend { order.reverse() } else { order };
        order.then_with(|| place(a).cmp(&place(b)))
    });
}
