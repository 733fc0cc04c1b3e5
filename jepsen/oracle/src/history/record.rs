//! Builds a history while a run goes on.
//!
//! Callers intern names as they meet them and record operations when their outcome is known, in any order. `finish`
//! sorts names and operations, and only then do numbers compare as bytes.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    History, OpId, Operation, Response, Stream, names::Key, names::Name, names::Names, names::Value,
};

#[derive(Default)]
pub struct Recorder {
    keys: Interner,
    values: Interner,
    operations: Vec<Operation>,
    streams: Vec<Stream>,
}

struct Interner {
    numbers: HashMap<Bytes, u32>,
    /// By number.
    names: Vec<Bytes>,
}

impl Default for Interner {
    fn default() -> Self {
        Interner { numbers: HashMap::from([(Bytes::new(), 0)]), names: vec![Bytes::new()] }
    }
}

impl Interner {
    fn number(&mut self, bytes: &[u8]) -> u32 {
        if let Some(&number) = self.numbers.get(bytes) {
            return number;
        }
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 names");
        let name = Bytes::copy_from_slice(bytes);
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// The sorted names, and the new number of each old one.
    fn finish(self) -> (Names, Vec<u32>) {
        let mut sorted: Vec<(Bytes, u32)> = self.names.into_iter().zip(0..).collect();
        sorted.sort_unstable();
        let mut renumbered = vec![0; sorted.len()];
        for (new, (_, old)) in (0..).zip(&sorted) {
            renumbered[*old as usize] = new;
        }
        let names = Names::new(sorted.into_iter().map(|(name, _)| name[..].into()).collect());
        (names.expect("they were just sorted"), renumbered)
    }
}

impl Recorder {
    /// A key or the end of a range; valid for this recorder only.
    pub fn key(&mut self, bytes: &[u8]) -> Key {
        Key(self.keys.number(bytes))
    }

    pub fn value(&mut self, bytes: &[u8]) -> Value {
        Value(self.values.number(bytes))
    }

    /// What `key` gave this number to.
    pub fn key_bytes(&self, key: Key) -> Bytes {
        self.keys.names[key.0 as usize].clone()
    }

    /// What `value` gave this number to.
    pub fn value_bytes(&self, value: Value) -> Bytes {
        self.values.names[value.0 as usize].clone()
    }

    pub fn operation(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    pub fn stream(&mut self, stream: Stream) {
        self.streams.push(stream);
    }

    /// The history, and the place of each operation by the order in which they were recorded.
    pub fn finish(self) -> (History, Vec<OpId>) {
        let (keys, new_keys) = self.keys.finish();
        let (values, new_values) = self.values.finish();
        let mut order: Vec<u32> = (0..self.operations.len() as u32).collect();
        order.sort_by_key(|&at| self.operations[at as usize].called_ns);
        let mut places = vec![OpId(0); order.len()];
        for (place, &at) in (0..).zip(&order) {
            places[at as usize] = OpId(place);
        }
        let mut operations = self.operations;
        operations.sort_by_key(|operation| operation.called_ns);
        let mut history = History { keys, values, operations, streams: self.streams };
        history.visit(&mut |name| match name {
            Name::Key(key) => key.0 = new_keys[key.0 as usize],
            Name::Value(value) => value.0 = new_values[value.0 as usize],
        });
        for operation in &mut history.operations {
            sort_sets(operation);
        }
        (history, places)
    }
}

/// What has no order in an answer gets one.
fn sort_sets(operation: &mut Operation) {
    let super::Outcome::Ok(answer) = &mut operation.outcome else { return };
    match &mut answer.response {
        Response::TimeToLive { keys, .. } => keys.sort_unstable(),
        Response::Leases(leases) => leases.sort_unstable(),
        _ => {}
    }
}

impl History {
    /// Every place where a name stands.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        for operation in &mut self.operations {
            operation.request.visit(visit);
            if let super::Outcome::Ok(answer) = &mut operation.outcome {
                answer.response.visit(visit);
            }
        }
        self.streams.iter_mut().for_each(|stream| stream.visit(visit));
    }
}
