//! What the comparison is to show, row by row, and whether it does. Pure; used by `report` and `plot`.

use crate::figure::{Figure, Sample};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At least this many times better than the peer.
    TimesBetter(f64),
    /// At most this share of the peer's figure.
    ShareOfPeer(f64),
    /// At most this much, whatever the peer does.
    AtMost(f64),
}

pub const GOALS: [(&str, Figure, Goal); 16] = [
    ("put-64", Figure::ServerCpu, Goal::TimesBetter(3.0)),
    ("put-64", Figure::Throughput, Goal::TimesBetter(2.5)),
    ("put-64", Figure::P99, Goal::TimesBetter(1.0)),
    ("get", Figure::ServerCpu, Goal::TimesBetter(2.5)),
    ("get-serializable", Figure::ServerCpu, Goal::TimesBetter(2.5)),
    ("range-10k", Figure::ServerCpu, Goal::TimesBetter(5.0)),
    ("page-first", Figure::ServerCpu, Goal::TimesBetter(50.0)),
    ("page-next", Figure::ServerCpu, Goal::TimesBetter(50.0)),
    ("watch", Figure::ServerCpu, Goal::TimesBetter(4.0)),
    ("memory", Figure::Resident, Goal::ShareOfPeer(0.6)),
    ("restart", Figure::RestartTime, Goal::ShareOfPeer(0.2)),
    ("compaction", Figure::Stall, Goal::AtMost(10.0)),
    ("snapshot", Figure::SaveTime, Goal::TimesBetter(2.0)),
    ("snapshot", Figure::Stall, Goal::AtMost(10.0)),
    ("restore", Figure::RestoreTime, Goal::AtMost(10.0)),
    ("members-3", Figure::ServerCpu, Goal::TimesBetter(3.0)),
];

impl Goal {
    /// `None` while a side that the goal needs was not measured.
    pub fn met(self, figure: Figure, ours: &Sample, peer: &Sample) -> Option<bool> {
        match self {
            Goal::TimesBetter(least) => times_better(figure, ours, peer).map(|times| times >= least),
            Goal::ShareOfPeer(most) => Some(ours.get(figure)? <= peer.get(figure)? * most),
            Goal::AtMost(most) => Some(ours.get(figure)? <= most),
        }
    }

    pub fn show(self) -> String {
        match self {
            Goal::TimesBetter(1.0) => "not worse".to_owned(),
            Goal::TimesBetter(least) => format!("≥ {least}x better"),
            Goal::ShareOfPeer(most) => format!("≤ {most} of peer"),
            Goal::AtMost(most) => format!("≤ {most}"),
        }
    }

    /// The goal as a number of times better, where it is one.
    pub fn as_times(self) -> Option<f64> {
        match self {
            Goal::TimesBetter(least) => Some(least),
            Goal::ShareOfPeer(most) => Some(1.0 / most),
            Goal::AtMost(_) => None,
        }
    }
}

/// peer / ours for costs, ours / peer for throughput: more is always better. `None` when a side is missing or
/// too small to be compared.
pub fn times_better(figure: Figure, ours: &Sample, peer: &Sample) -> Option<f64> {
    let (ours, peer) = (ours.get(figure)?, peer.get(figure)?);
    let (above, below) = if figure.more_is_better() { (ours, peer) } else { (peer, ours) };
    (below > 0.0).then(|| above / below)
}

/// A goal beside what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub row: &'static str,
    pub figure: Figure,
    pub goal: String,
    pub goal_times: Option<f64>,
    pub ours: Option<f64>,
    pub peer: Option<f64>,
    pub times_better: Option<f64>,
    pub met: Option<bool>,
}

/// Verdicts on the goals of one row.
pub fn verdicts(row: &str, ours: &Sample, peer: &Sample) -> Vec<Verdict> {
    GOALS
        .iter()
        .filter(|(name, ..)| *name == row)
        .map(|&(row, figure, goal)| Verdict {
            row,
            figure,
            goal: goal.show(),
            goal_times: goal.as_times(),
            ours: ours.get(figure),
            peer: peer.get(figure),
            times_better: goal.as_times().and_then(|_| times_better(figure, ours, peer)),
            met: goal.met(figure, ours, peer),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figure: Figure, value: f64) -> Sample {
        let mut sample = Sample::default();
        sample.set(figure, value);
        sample
    }

    #[test]
    fn more_is_better_for_throughput_and_less_for_costs() {
        let ratio = |figure, ours, peer| times_better(figure, &sample(figure, ours), &sample(figure, peer));
        assert_eq!(ratio(Figure::ServerCpu, 10.0, 35.0), Some(3.5));
        assert_eq!(ratio(Figure::Throughput, 35.0, 10.0), Some(3.5));
        assert_eq!(ratio(Figure::ServerCpu, 0.0, 35.0), None);
        assert_eq!(times_better(Figure::P99, &Sample::default(), &sample(Figure::P99, 1.0)), None);
    }

    #[test]
    fn each_kind_of_goal_has_its_edge() {
        let met =
            |goal: Goal, figure, ours, peer| goal.met(figure, &sample(figure, ours), &sample(figure, peer));
        let times = Goal::TimesBetter(3.0);
        assert_eq!(met(times, Figure::ServerCpu, 10.0, 30.0), Some(true));
        assert_eq!(met(times, Figure::ServerCpu, 10.0, 29.0), Some(false));
        let share = Goal::ShareOfPeer(0.5);
        assert_eq!(met(share, Figure::Resident, 50.0, 100.0), Some(true));
        assert_eq!(met(share, Figure::Resident, 51.0, 100.0), Some(false));
        let most = Goal::AtMost(10.0);
        assert_eq!(most.met(Figure::Stall, &sample(Figure::Stall, 9.0), &Sample::default()), Some(true));
        assert_eq!(most.met(Figure::Stall, &sample(Figure::Stall, 11.0), &Sample::default()), Some(false));
        assert_eq!(share.met(Figure::Resident, &sample(Figure::Resident, 1.0), &Sample::default()), None);
    }

    #[test]
    fn a_row_gets_its_own_goals_only() {
        let found = verdicts("put-64", &sample(Figure::ServerCpu, 10.0), &sample(Figure::ServerCpu, 40.0));
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].met, Some(true));
        assert_eq!(found[1].met, None);
        assert!(verdicts("mixed", &Sample::default(), &Sample::default()).is_empty());
    }
}
