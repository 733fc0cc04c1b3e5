//! What the figures of a record must reach, and whether they do.
//!
//! The table is the programme's; every mark is computed from a record. A goal "in at most so many minutes" is met by a
//! run that reached the figure in that time; a longer run is judged by its share of that time.

use crate::record::{Record, State, Verb};

const MINUTE: f64 = 60.0;

/// A known bug must be found again in so many seconds: in simulation, and with processes.
const BUG_SECONDS: (f64, f64) = (60.0, 5.0 * MINUTE);

#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub verb: Verb,
    pub name: &'static str,
    pub measure: Measure,
    pub needed: Needed,
    pub within_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Measure {
    Figure(&'static str),
    /// Rows that made a mistake which nothing found.
    Missed,
    /// Seeds until a mistake is found, in the middle of all that were.
    MedianSeeds,
    /// Known bugs not found again, or too late.
    NotRefound,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Needed {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Met,
    Missed,
    Unmeasured,
}

const fn figure(verb: Verb, name: &'static str, figure: &'static str, needed: Needed) -> Goal {
    Goal { verb, name, measure: Measure::Figure(figure), needed, within_seconds: None }
}

const fn within(minutes: f64, goal: Goal) -> Goal {
    Goal { within_seconds: Some(minutes * MINUTE), ..goal }
}

use Needed::{AtLeast, AtMost};
use Verb::{Bugs, Chaos, Mutants, Simulate};

pub const GOALS: [Goal; 14] = [
    within(10.0, figure(Simulate, "seeds", "seeds", AtLeast(3_000.0))),
    within(10.0, figure(Simulate, "simulated cluster-hours", "simulated_hours", AtLeast(100.0))),
    within(10.0, figure(Simulate, "operations checked", "operations", AtLeast(15e6))),
    within(10.0, figure(Simulate, "faults", "faults", AtLeast(50_000.0))),
    figure(
        Simulate,
        "simulated seconds per second and core",
        "simulated_seconds_per_core_second",
        AtLeast(300.0),
    ),
    figure(Simulate, "seeds run twice", "replayed", AtLeast(1.0)),
    figure(Simulate, "seeds that went another way the second time", "replays_differing", AtMost(0.0)),
    figure(
        Simulate,
        "operations checked per second and core, by the checker alone",
        "checked_per_core_second",
        AtLeast(2e6),
    ),
    within(15.0, figure(Chaos, "runs", "runs", AtLeast(60.0))),
    within(15.0, figure(Chaos, "faults", "faults", AtLeast(180.0))),
    within(15.0, figure(Chaos, "operations checked", "operations", AtLeast(1e6))),
    Goal {
        verb: Mutants,
        name: "mutants not noticed",
        measure: Measure::Missed,
        needed: AtMost(0.0),
        within_seconds: None,
    },
    Goal {
        verb: Mutants,
        name: "seeds until noticed, median",
        measure: Measure::MedianSeeds,
        needed: AtMost(50.0),
        within_seconds: None,
    },
    Goal {
        verb: Bugs,
        name: "known bugs not found again in 60 s, or 5 min with processes",
        measure: Measure::NotRefound,
        needed: AtMost(0.0),
        within_seconds: None,
    },
];

impl Goal {
    /// The figure that is judged; `None` if the record does not have it.
    pub fn measured(&self, record: &Record) -> Option<f64> {
        let rows = || record.rows.iter().filter(|row| row.state != State::Skipped);
        match self.measure {
            Measure::Figure(name) => record.figures.get(name).copied(),
            Measure::Missed => {
                rows().next()?;
                Some(rows().filter(|row| row.state.is_bad()).count() as f64)
            }
            Measure::MedianSeeds => {
                median(rows().filter(|row| row.state == State::Noticed).filter_map(|row| row.seeds).collect())
            }
            Measure::NotRefound => {
                rows().next()?;
                let late = rows().filter(|row| {
                    let limit = if row.processes { BUG_SECONDS.1 } else { BUG_SECONDS.0 };
                    row.state.is_bad() || row.seconds.is_none_or(|seconds| seconds > limit)
                });
                Some(late.count() as f64)
            }
        }
    }

    /// `record` is the newest of the goal's verb, if there is one.
    pub fn mark(&self, record: Option<&Record>) -> Mark {
        let Some((record, measured)) = record.and_then(|record| Some((record, self.measured(record)?)))
        else {
            return Mark::Unmeasured;
        };
        let share =
            self.within_seconds.map_or(1.0, |limit| (limit / record.took_seconds.max(limit)).min(1.0));
        let met = match self.needed {
            AtLeast(least) => measured * share >= least,
            AtMost(most) => measured <= most,
        };
        if met { Mark::Met } else { Mark::Missed }
    }
}

fn median(mut seeds: Vec<u64>) -> Option<f64> {
    seeds.sort_unstable();
    let upper = *seeds.get(seeds.len() / 2)?;
    let lower = seeds[(seeds.len() - 1) / 2];
    Some((lower as f64 + upper as f64) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Row;

    fn goal(name: &str, verb: Verb) -> &'static Goal {
        GOALS.iter().find(|goal| goal.name == name && goal.verb == verb).expect("a goal of that name")
    }

    fn run(seeds: f64, took_seconds: f64) -> Record {
        let mut record = Record::new(Simulate, 0, took_seconds, "");
        record.figures.insert("seeds".into(), seeds);
        record
    }

    #[test]
    fn a_long_run_is_judged_by_its_share() {
        let goal = goal("seeds", Simulate);
        let cases = [
            (3_000.0, 600.0, Mark::Met),
            (3_000.0, 60.0, Mark::Met),
            (2_999.0, 60.0, Mark::Missed),
            (18_000.0, 3600.0, Mark::Met),
            (17_000.0, 3600.0, Mark::Missed),
        ];
        for (seeds, took, mark) in cases {
            assert_eq!(goal.mark(Some(&run(seeds, took))), mark, "{seeds} in {took}");
        }
        assert_eq!(goal.mark(None), Mark::Unmeasured);
        assert_eq!(goal.mark(Some(&Record::new(Simulate, 0, 1.0, ""))), Mark::Unmeasured);
    }

    #[test]
    fn mutants_are_counted_from_their_rows() {
        let mut record = Record::new(Mutants, 0, 1.0, "");
        let noticed = |seeds| Row { seeds: Some(seeds), ..Row::new("", "", State::Noticed) };
        record.rows = vec![noticed(1), noticed(90), Row::new("", "", State::Skipped)];
        let (missed, median) =
            (goal("mutants not noticed", Mutants), goal("seeds until noticed, median", Mutants));
        assert_eq!((missed.measured(&record), median.measured(&record)), (Some(0.0), Some(45.5)));
        record.rows.push(Row { seeds: Some(500), ..Row::new("", "", State::Unnoticed) });
        assert_eq!((missed.mark(Some(&record)), median.mark(Some(&record))), (Mark::Missed, Mark::Met));
        record.rows.clear();
        assert_eq!(missed.mark(Some(&record)), Mark::Unmeasured);
    }

    #[test]
    fn bugs_have_more_time_with_processes() {
        let goal = goal("known bugs not found again in 60 s, or 5 min with processes", Bugs);
        let row = |seconds, processes| Row { seconds, processes, ..Row::new("", "", State::Noticed) };
        let mark = |row| {
            let mut record = Record::new(Bugs, 0, 1.0, "");
            record.rows.push(row);
            goal.mark(Some(&record))
        };
        assert_eq!(mark(row(Some(60.0), false)), Mark::Met);
        assert_eq!(mark(row(Some(61.0), false)), Mark::Missed);
        assert_eq!(mark(row(Some(61.0), true)), Mark::Met);
        assert_eq!(mark(row(None, true)), Mark::Missed);
    }
}
