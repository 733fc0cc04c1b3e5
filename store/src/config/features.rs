//! Feature gates: named switches for behaviour that is not settled yet.
//!
//! Owns the names, their defaults and the `A=true,B=false` syntax; each gate is read by the module whose
//! behaviour it changes. Follows `server/features/etcd_features.go`.

use super::{ConfigError, flags::parse_bool};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    StopGrpcServiceOnDefrag,
    InitialCorruptCheck,
    CompactHashCheck,
    TxnModeWriteWithSharedBuffer,
    LeaseCheckpoint,
    LeaseCheckpointPersist,
    SetMemberLocalAddr,
    FastLeaseKeepAlive,
    PriorityRequest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// Position in this table is the gate's bit. A beta gate is on by default.
const GATES: [(Feature, &str, Stage); 9] = [
    (Feature::StopGrpcServiceOnDefrag, "StopGRPCServiceOnDefrag", Stage::Alpha),
    (Feature::InitialCorruptCheck, "InitialCorruptCheck", Stage::Alpha),
    (Feature::CompactHashCheck, "CompactHashCheck", Stage::Alpha),
    (Feature::TxnModeWriteWithSharedBuffer, "TxnModeWriteWithSharedBuffer", Stage::Beta),
    (Feature::LeaseCheckpoint, "LeaseCheckpoint", Stage::Alpha),
    (Feature::LeaseCheckpointPersist, "LeaseCheckpointPersist", Stage::Alpha),
    (Feature::SetMemberLocalAddr, "SetMemberLocalAddr", Stage::Alpha),
    (Feature::FastLeaseKeepAlive, "FastLeaseKeepAlive", Stage::Beta),
    (Feature::PriorityRequest, "PriorityRequest", Stage::Alpha),
];

impl Feature {
    pub fn name(self) -> &'static str {
        GATES[self as usize].1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureGates {
    on: u16,
    /// Set by name: `AllAlpha` and `AllBeta` leave these alone, wherever they stand.
    named: u16,
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self { on: stage_bits(Stage::Beta), named: 0 }
    }
}

impl FeatureGates {
    pub fn enabled(self, feature: Feature) -> bool {
        self.on & bit(feature) != 0
    }

    pub fn set(&mut self, feature: Feature, on: bool) {
        self.named |= bit(feature);
        self.switch(bit(feature), on);
    }

    /// The gates that were set by their own name.
    pub fn named(self) -> impl Iterator<Item = Feature> {
        GATES.iter().map(|gate| gate.0).filter(move |feature| self.named & bit(*feature) != 0)
    }

    /// Every gate with its state, for the start-up log and metrics.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, bool)> {
        GATES.iter().map(move |(feature, name, _)| (*name, self.enabled(*feature)))
    }

    /// Applies `A=true,B=false`. Nothing changes when an item is wrong.
    pub fn apply(&mut self, text: &str) -> Result<(), ConfigError> {
        let mut gates = *self;
        let mut stages = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let Some((name, value)) = item.split_once('=') else {
                return Err(ConfigError(format!("missing bool value for {item}")));
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(on) = parse_bool(value) else {
                return Err(ConfigError(format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                )));
            };
            match (name, GATES.iter().find(|gate| gate.1 == name)) {
                ("AllAlpha", _) => stages.push((Stage::Alpha, on)),
                ("AllBeta", _) => stages.push((Stage::Beta, on)),
                (_, Some((feature, _, _))) => gates.set(*feature, on),
                (_, None) => return Err(ConfigError(format!("unrecognized feature gate: {name}"))),
            }
        }
        for (stage, on) in stages {
            gates.switch(stage_bits(stage) & !gates.named, on);
        }
        *self = gates;
        Ok(())
    }

    fn switch(&mut self, bits: u16, on: bool) {
        if on { self.on |= bits } else { self.on &= !bits }
    }
}

fn bit(feature: Feature) -> u16 {
    1 << feature as u16
}

fn stage_bits(stage: Stage) -> u16 {
    GATES.iter().filter(|gate| gate.2 == stage).map(|gate| bit(gate.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_order_is_enum_order() {
        for (position, (feature, _, _)) in GATES.iter().enumerate() {
            assert_eq!(*feature as usize, position);
        }
    }

    #[test]
    fn names_win_over_stages() {
        let mut gates = FeatureGates::default();
        assert!(gates.enabled(Feature::FastLeaseKeepAlive) && !gates.enabled(Feature::LeaseCheckpoint));
        gates.apply("LeaseCheckpoint=false, AllAlpha=true,AllBeta=false").unwrap();
        assert!(gates.enabled(Feature::InitialCorruptCheck));
        assert!(!gates.enabled(Feature::LeaseCheckpoint));
        assert!(!gates.enabled(Feature::FastLeaseKeepAlive));
    }

    #[test]
    fn wrong_items_change_nothing() {
        let mut gates = FeatureGates::default();
        for (text, error) in [
            ("LeaseCheckpoint=true,Foo=true", "unrecognized feature gate: Foo"),
            ("LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            (
                "LeaseCheckpoint=maybe",
                "invalid value of LeaseCheckpoint=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(gates.apply(text).unwrap_err().0, error);
            assert_eq!(gates, FeatureGates::default());
        }
    }
}
