//! Faults of clocks, by the preloaded library: jumps of the time of day, drift of both clocks.

use faults::nudge::{Clock, Nudge};
use rand::{Rng, rngs::StdRng};

use super::Nemesis;

/// Clocks run at most so much too fast or too slow.
pub const MAX_DRIFT_PARTS_PER_MILLION: i32 = 100_000;

const NO_CLOCK: &str = "this run has no clocks to disturb";
const NS_PER_SECOND: i64 = 1_000_000_000;
const MAX_JUMP_SECONDS: i64 = 3600;

/// Clocks run as they should again; the time of day stays where it is.
pub(super) fn calm(nudge: &Nudge) {
    nudge.calm();
}

impl Nemesis {
    pub(super) async fn jump(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let nudge = self.world.cluster.nudges.get(at).ok_or(NO_CLOCK)?;
        let seconds = random.random_range(-MAX_JUMP_SECONDS..=MAX_JUMP_SECONDS);
        let name = self.named(at);
        // Strobing: there and back, many times.
        let strobes = if random.random_bool(0.3) { 10 } else { 1 };
        for _ in 0..strobes {
            nudge.jump(seconds * NS_PER_SECOND);
            self.hold(random.random_range(20..400)).await;
            if strobes > 1 || random.random_bool(0.5) {
                nudge.jump(-seconds * NS_PER_SECOND);
            }
        }
        Ok(format!("clock of {name} jumps {seconds} s, {strobes} times"))
    }

    pub(super) async fn drift(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let nudge = self.world.cluster.nudges.get(at).ok_or(NO_CLOCK)?;
        let parts = random.random_range(-MAX_DRIFT_PARTS_PER_MILLION..=MAX_DRIFT_PARTS_PER_MILLION);
        nudge.drift(Clock::Monotonic, parts);
        nudge.drift(Clock::Realtime, parts);
        self.hold(random.random_range(500..4000)).await;
        nudge.drift(Clock::Monotonic, 0);
        nudge.drift(Clock::Realtime, 0);
        Ok(format!("clock of {} drifts {parts} parts per million", self.named(at)))
    }
}
