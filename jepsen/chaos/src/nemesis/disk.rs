//! Faults of disks, by the forgetful file system: power loss, no space, slow and hanging syncs, syncs that fail.
//!
//! A member whose disk refuses may end by itself, which is right; it is started again when the fault is over.

use std::time::Duration;

use faults::forgetfs::ForgetFs;
use rand::{Rng, rngs::StdRng};

use super::{
    Claim, Nemesis,
    process::{DOWN, TAKEN},
};

const NO_DISK: &str = "this run has no such disks";
/// What a full disk has left.
const LEFT_BYTES: u64 = 32 << 10;

/// As if nothing had been done.
pub(super) fn calm(disk: &ForgetFs) {
    disk.stall(false);
    disk.slow(None);
    disk.capacity(None);
    disk.fail_syncs(None);
}

/// How far back from its end a log is looked at, in lines: Go says why it ends ahead of its stacks.
const LAST_LINES: usize = 200;
/// What a disk that fails says, in lower case.
const REFUSALS: [&str; 2] = ["no space left on device", "input/output error"];

/// Whether the end of a member's log names its disk.
pub(super) fn is_blamed(log: &str) -> bool {
    log.lines().rev().take(LAST_LINES).any(|line| {
        let line = line.to_lowercase();
        REFUSALS.iter().any(|said| line.contains(said))
    })
}

impl Nemesis {
    fn disk(&self, at: usize) -> Result<(&ForgetFs, Claim<'_>), &'static str> {
        let disk = self.world.cluster.disks.get(at).ok_or(NO_DISK)?;
        let claimed = &self.disk_claimed[at];
        if claimed.replace(true) {
            return Err(TAKEN);
        }
        Ok((disk, Claim(claimed)))
    }

    /// A kill of one, some or all, after which their disks forget.
    pub(super) async fn lose_power(&self, random: &mut StdRng) -> Result<String, &'static str> {
        if self.world.cluster.disks.is_empty() {
            return Err(NO_DISK);
        }
        let victims = self.some_members(random);
        let mut seeds: Vec<u64> = victims.iter().map(|_| random.random()).collect();
        let mut lost = 0;
        let names = self
            .take_down(&victims, random, &mut |at| {
                let disk = &self.world.cluster.disks[at];
                // Somebody might have it hang; nothing may when the power is gone.
                calm(disk);
                lost += disk.lose_power(seeds.pop().unwrap_or_default()).sectors;
            })
            .await?;
        Ok(format!("power loss of {names}: {lost} sectors"))
    }

    pub(super) async fn fill(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let (disk, _claim) = self.disk(at)?;
        self.disk_begins_to_fail(at);
        let name = self.named(at);
        disk.capacity(Some(disk.stats().bytes_used + LEFT_BYTES));
        self.hold(random.random_range(300..2500)).await;
        disk.capacity(None);
        let refused = disk.stats().refused_full;
        Ok(format!("full disk of {name}: {refused} refusals so far"))
    }

    pub(super) async fn slow_disk(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let (disk, _claim) = self.disk(at)?;
        let name = self.named(at);
        if random.random_bool(0.5) {
            let per_sync = Duration::from_millis(random.random_range(2..200));
            disk.slow(Some(per_sync));
            self.hold(random.random_range(500..4000)).await;
            disk.slow(None);
            return Ok(format!("slow disk of {name}: {per_sync:?} a sync"));
        }
        // A process that hangs in a sync cannot be killed: nobody else may try.
        let _process = self.claim(at).ok_or(TAKEN)?;
        if !self.world.cluster.servers[at].is_up() {
            return Err(DOWN);
        }
        let time_ms = random.random_range(200..3000);
        disk.stall(true);
        self.hold(time_ms).await;
        disk.stall(false);
        Ok(format!("stalled disk of {name}: {time_ms} ms"))
    }

    pub(super) async fn fail_disk(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let at = self.victim(random);
        let (disk, _claim) = self.disk(at)?;
        self.disk_begins_to_fail(at);
        let name = self.named(at);
        disk.fail_syncs(Some(libc::EIO));
        self.hold(random.random_range(50..1000)).await;
        disk.fail_syncs(None);
        let failed = disk.stats().syncs_failed;
        Ok(format!("failing disk of {name}: {failed} syncs so far"))
    }
}

#[cfg(test)]
mod tests {
    use super::is_blamed;

    #[test]
    fn a_member_blames_its_disk_at_the_end_of_its_log() {
        let ours = r#"{"msg":"the server ended","error":"backend: IO error: No space left on device: kv/000041.sst"}"#;
        assert!(is_blamed(&format!("starts\n{ours}\n")));
        let stack = "goroutine 1 [running]:\n".repeat(50);
        assert!(is_blamed(&format!("panic: sync m0.etcd/member/snap/db: input/output error\n{stack}")));
        assert!(!is_blamed("starts\nthread 'raft' panicked at src/node/raft_loop.rs:1:1\n"));
        let long_ago = "applied\n".repeat(500);
        assert!(!is_blamed(&format!("{ours}\n{long_ago}thread 'raft' panicked\n")));
    }
}
