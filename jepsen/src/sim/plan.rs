//! What a run is to be: the cluster, its clients, and every fault in advance, drawn from the seed.
//!
//! A plan has a text, so that a failing run can be made smaller by leaving things out (`shrink`) and kept:
//!
//! ```text
//! seed 7
//! mutant D1
//! members 3
//! snapshot-count 12
//! catch-up 6
//! lease-notes 0
//! clients 4
//! watchers 1
//! auth 1
//! chaos 20000
//! at 3210 for 500 crash leader
//! at 4000 for 2000 split 5
//! ```
//!
//! Times are milliseconds. A fault line is `at START for LENGTH KIND`, and for most kinds `leader` or the number of a
//! member (of those that are there then, if members come and go); `split` has the members of one side as bits, and
//! `resize` how many voters there are to be. What happens inside a fault (which sectors a power cut keeps)
//! is drawn while the run goes on, from the same seed. `#` begins a comment.

use std::fmt::{self, Display, Formatter};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Nothing goes wrong before, so that there is a cluster.
const FIRST_FAULT_MS: u64 = 3_000;
/// So long before the end a last fault begins.
const LATE_MS: u64 = 8_000;
/// When the operator begins, and how long until it has something else to do.
const FIRST_JOB_MS: std::ops::Range<u64> = 1_500..6_000;
const JOB_PAUSE_MS: std::ops::Range<u64> = 2_000..14_000;
/// Voters that an operator may be asked for.
const MAX_VOTERS: u64 = 7;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// The mistake that the members make, by its name; empty for none.
    pub mutant: String,
    pub members: usize,
    /// As the server's flags.
    pub snapshot_count: u64,
    pub catch_up: u64,
    /// How often it is noted what leases have left; 0: seldom, or never.
    pub lease_notes_ms: u64,
    pub clients: usize,
    pub watchers: usize,
    /// Whether there are users, roles and rights.
    pub auth: bool,
    /// How long there are faults.
    pub chaos_ms: u64,
    /// In order of their beginning.
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub kind: Kind,
}

/// Whom a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Member(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The process ends.
    Crash(Whom),
    /// The process ends, and what was not synced may be gone.
    PowerLoss(Whom),
    /// All at once lose their power.
    Blackout,
    /// The power goes after so many more changes on the disk: in the middle of a write, or of a recovery.
    Cut(Whom, u64),
    /// Members in the bits hear only each other, and so do the others.
    Split(u64),
    /// It is heard, and hears nobody.
    Deaf(Whom),
    /// It is cut off from all others.
    Alone(Whom),
    /// Messages are lost, repeated and late.
    Lossy,
    /// It does nothing; its clock goes on.
    Freeze(Whom),
    /// Its disk answers nothing.
    Stall(Whom),
    /// It elects a successor to a leader that is cut off, and forgets that it did: its disk was slow, and the power
    /// goes. The old leader asks it next.
    Forget(Whom),
    /// It falls so far behind that it needs a snapshot, and all crash around that moment.
    Behind(Whom),
    /// Its disk is full.
    Full(Whom),
    /// The next sync of its disk fails.
    BadSync(Whom),
    /// Its disk stores only the beginning of a write.
    ShortWrite(Whom, u64),
    /// It ends, and bits of its log flip meanwhile. Only so many members as the cluster can do without.
    Rot(Whom, u64),
    /// Its clock goes faster or slower by so many percent.
    Skew(Whom, i64),
    /// Leadership is handed to it.
    Transfer(Whom),
    /// The operator adds and removes members until so many vote.
    Resize(u64),
    /// It loses its disk; the operator removes it and adds another at its address.
    Replace(Whom),
    /// The operator gives it another address.
    Move(Whom),
}

impl Plan {
    /// The plan of a seed, with faults for `chaos_ms`.
    pub fn draw(seed: u64, chaos_ms: u64) -> Plan {
        let mut random = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let members = [1, 3, 3, 3, 5][random.random_range(0..5)];
        let mut plan = Plan {
            seed,
            mutant: String::new(),
            members,
            snapshot_count: random.random_range(5..100),
            catch_up: random.random_range(5..50),
            lease_notes_ms: if seed % 4 == 2 { 1000 + seed % 1024 } else { 0 },
            clients: random.random_range(3..7),
            watchers: random.random_range(1..4),
            // Of a stream of its own, so that all else is as without.
            auth: StdRng::seed_from_u64(seed ^ 0x6175_7468).random_bool(0.25),
            chaos_ms,
            faults: Vec::new(),
        };
        // Each run has some kinds of faults only, so that rare ones are not always drowned by the others.
        let kinds: Vec<u64> = (0..KINDS).filter(|_| random.random_bool(0.45)).collect();
        let pause_ms = [1_500, 3_000, 6_000].choose(&mut random).copied().unwrap_or(3_000);
        let mut at_ms = FIRST_FAULT_MS;
        while at_ms < chaos_ms {
            let kind = kinds.choose(&mut random).copied().unwrap_or(0);
            let fault = draw_fault(kind, at_ms, members, &mut random);
            plan.faults.push(fault);
            at_ms += random.random_range(pause_ms / 8..2 * pause_ms);
        }
        // Some end with a member that is far behind when all becomes quiet: nothing that comes later hides what a
        // snapshot left undone.
        if members > 1 && chaos_ms > 2 * LATE_MS && random.random_bool(0.2) {
            let kind = Kind::Behind(Whom::Member(random.random_range(0..members)));
            plan.faults.push(Fault { at_ms: chaos_ms - LATE_MS, lasts_ms: 2 * LATE_MS, kind });
            plan.faults.sort_by_key(|fault| fault.at_ms);
        }
        plan.draw_jobs();
        plan
    }

    /// In some plans members come and go. From a stream of its own: the others stay as they were.
    fn draw_jobs(&mut self) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0x6a6f_6273);
        if !random.random_bool(0.35) {
            return;
        }
        // Rot and lost disks together may take more than the cluster can do without.
        self.faults.retain(|fault| !matches!(fault.kind, Kind::Rot(..)));
        let mut at_ms = random.random_range(FIRST_JOB_MS);
        while at_ms < self.chaos_ms {
            let whom = match random.random_bool(0.3) {
                true => Whom::Leader,
                false => Whom::Member(random.random_range(0..self.members)),
            };
            let kind = match random.random_range(0..8) {
                0..5 => Kind::Resize([1, 2, 3, 3, 4, 5, 5][random.random_range(0..7)]),
                5 | 6 => Kind::Replace(whom),
                _ => Kind::Move(whom),
            };
            self.faults.push(Fault { at_ms, lasts_ms: 0, kind });
            at_ms += random.random_range(JOB_PAUSE_MS);
        }
        self.faults.sort_by_key(|fault| fault.at_ms);
    }

    /// Whether members come and go.
    pub fn has_jobs(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind.is_job())
    }
}

/// How many kinds `draw_fault` knows.
const KINDS: u64 = 18;

fn draw_fault(kind: u64, at_ms: u64, members: usize, random: &mut StdRng) -> Fault {
    let whom = match random.random_bool(0.4) {
        true => Whom::Leader,
        false => Whom::Member(random.random_range(0..members)),
    };
    let kind = match kind {
        0 => Kind::Crash(whom),
        1 => Kind::PowerLoss(whom),
        2 => Kind::Blackout,
        3 => Kind::Cut(whom, random.random_range(0..40)),
        4 => Kind::Split(random.random_range(0..1 << members)),
        5 => Kind::Deaf(whom),
        6 => Kind::Alone(whom),
        7 => Kind::Lossy,
        8 => Kind::Freeze(whom),
        9 => Kind::Stall(whom),
        10 => Kind::Forget(whom),
        11 => Kind::Behind(whom),
        12 => Kind::Full(whom),
        13 => Kind::BadSync(whom),
        14 => Kind::ShortWrite(whom, random.random_range(0..600)),
        15 => Kind::Rot(whom, random.random_range(1..4)),
        16 => Kind::Skew(whom, random.random_range(-10..=10)),
        _ => Kind::Transfer(whom),
    };
    Fault { at_ms, lasts_ms: random.random_range(100..5_000), kind }
}

impl Kind {
    pub const NAMES: [&str; KINDS as usize] = [
        "crash",
        "power-loss",
        "blackout",
        "cut",
        "split",
        "deaf",
        "alone",
        "lossy",
        "freeze",
        "stall",
        "forget",
        "behind",
        "full",
        "bad-sync",
        "short-write",
        "rot",
        "skew",
        "transfer",
    ];

    /// The word of a plan's text, and the key of figures.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Crash(_) => "crash",
            Kind::PowerLoss(_) => "power-loss",
            Kind::Blackout => "blackout",
            Kind::Cut(..) => "cut",
            Kind::Split(_) => "split",
            Kind::Deaf(_) => "deaf",
            Kind::Alone(_) => "alone",
            Kind::Lossy => "lossy",
            Kind::Freeze(_) => "freeze",
            Kind::Stall(_) => "stall",
            Kind::Forget(_) => "forget",
            Kind::Behind(_) => "behind",
            Kind::Full(_) => "full",
            Kind::BadSync(_) => "bad-sync",
            Kind::ShortWrite(..) => "short-write",
            Kind::Rot(..) => "rot",
            Kind::Skew(..) => "skew",
            Kind::Transfer(_) => "transfer",
            Kind::Resize(_) => "resize",
            Kind::Replace(_) => "replace",
            Kind::Move(_) => "move",
        }
    }

    /// Whether it is for the operator; the others are faults.
    pub fn is_job(&self) -> bool {
        matches!(self, Kind::Resize(_) | Kind::Replace(_) | Kind::Move(_))
    }

    fn parse(words: &[&str]) -> Option<Kind> {
        let (name, words) = words.split_first()?;
        let whom = || match *words.first()? {
            "leader" => Some(Whom::Leader),
            number => Some(Whom::Member(number.parse().ok()?)),
        };
        let number = || words.last()?.parse().ok();
        let (kind, arguments) = match *name {
            "crash" => (Kind::Crash(whom()?), 1),
            "power-loss" => (Kind::PowerLoss(whom()?), 1),
            "blackout" => (Kind::Blackout, 0),
            "cut" => (Kind::Cut(whom()?, number()?), 2),
            "split" => (Kind::Split(number()?), 1),
            "deaf" => (Kind::Deaf(whom()?), 1),
            "alone" => (Kind::Alone(whom()?), 1),
            "lossy" => (Kind::Lossy, 0),
            "freeze" => (Kind::Freeze(whom()?), 1),
            "stall" => (Kind::Stall(whom()?), 1),
            "forget" => (Kind::Forget(whom()?), 1),
            "behind" => (Kind::Behind(whom()?), 1),
            "full" => (Kind::Full(whom()?), 1),
            "bad-sync" => (Kind::BadSync(whom()?), 1),
            "short-write" => (Kind::ShortWrite(whom()?, number()?), 2),
            "rot" => (Kind::Rot(whom()?, number()?), 2),
            "skew" => (Kind::Skew(whom()?, words.last()?.parse().ok()?), 2),
            "transfer" => (Kind::Transfer(whom()?), 1),
            "resize" => (Kind::Resize(number().filter(|voters| (1..=MAX_VOTERS).contains(voters))?), 1),
            "replace" => (Kind::Replace(whom()?), 1),
            "move" => (Kind::Move(whom()?), 1),
            _ => return None,
        };
        (words.len() == arguments).then_some(kind)
    }

    fn whom(&self) -> Option<Whom> {
        match self {
            Kind::Blackout | Kind::Split(_) | Kind::Lossy | Kind::Resize(_) => None,
            Kind::Crash(whom) | Kind::PowerLoss(whom) | Kind::Cut(whom, _) | Kind::Deaf(whom) => Some(*whom),
            Kind::Alone(whom) | Kind::Freeze(whom) | Kind::Stall(whom) | Kind::Forget(whom) => Some(*whom),
            Kind::Behind(whom) | Kind::Full(whom) | Kind::BadSync(whom) | Kind::ShortWrite(whom, _) => {
                Some(*whom)
            }
            Kind::Rot(whom, _) | Kind::Skew(whom, _) | Kind::Transfer(whom) => Some(*whom),
            Kind::Replace(whom) | Kind::Move(whom) => Some(*whom),
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.whom() {
            Some(Whom::Leader) => f.write_str(" leader")?,
            Some(Whom::Member(number)) => write!(f, " {number}")?,
            None => {}
        }
        match self {
            Kind::Cut(_, number)
            | Kind::Split(number)
            | Kind::Resize(number)
            | Kind::ShortWrite(_, number)
            | Kind::Rot(_, number) => {
                write!(f, " {number}")
            }
            Kind::Skew(_, percent) => write!(f, " {percent}"),
            _ => Ok(()),
        }
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        if !self.mutant.is_empty() {
            writeln!(f, "mutant {}", self.mutant)?;
        }
        let numbers = [
            ("members", self.members as u64),
            ("snapshot-count", self.snapshot_count),
            ("catch-up", self.catch_up),
            ("lease-notes", self.lease_notes_ms),
            ("clients", self.clients as u64),
            ("watchers", self.watchers as u64),
            ("chaos", self.chaos_ms),
        ];
        numbers.iter().try_for_each(|(name, number)| writeln!(f, "{name} {number}"))?;
        if self.auth {
            writeln!(f, "auth 1")?;
        }
        self.faults.iter().try_for_each(|fault| {
            let Fault { at_ms, lasts_ms, kind } = fault;
            writeln!(f, "at {at_ms} for {lasts_ms} {kind}")
        })
    }
}

/// What a text must say; the last of them shows that it is whole but for its faults.
const MUST_SAY: [&str; 4] = ["seed", "members", "clients", "chaos"];

/// A text that is no plan: which line, and what it should have been.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    pub line: usize,
    pub what: &'static str,
}

impl Display for Malformed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::str::FromStr for Plan {
    type Err = Malformed;

    /// What the text leaves out, and may, is as `draw` would have it; faults are those of the text alone.
    fn from_str(text: &str) -> Result<Plan, Malformed> {
        let mut plan = Plan { faults: Vec::new(), auth: false, ..Plan::draw(1, 0) };
        let mut said = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let malformed = |what| Malformed { line: at + 1, what };
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let number = || match words[..] {
                [_, number] => number.parse().map_err(|_| malformed("a number is expected")),
                _ => Err(malformed("a name and a number are expected")),
            };
            said.extend(words.first().and_then(|word| MUST_SAY.into_iter().find(|it| it == word)));
            match words.first().copied() {
                None => {}
                Some("seed") => plan.seed = number()?,
                Some("mutant") => plan.mutant = words.get(1).copied().unwrap_or_default().to_owned(),
                Some("members") => plan.members = number()? as usize,
                Some("snapshot-count") => plan.snapshot_count = number()?,
                Some("catch-up") => plan.catch_up = number()?,
                Some("lease-notes") => plan.lease_notes_ms = number()?,
                Some("clients") => plan.clients = number()? as usize,
                Some("watchers") => plan.watchers = number()? as usize,
                Some("auth") => plan.auth = number()? != 0,
                Some("chaos") => plan.chaos_ms = number()?,
                Some("at") => plan.faults.push(fault(&words).ok_or_else(|| {
                    malformed("`at START for LENGTH KIND [leader|MEMBER] [NUMBER]` is expected")
                })?),
                Some(_) => return Err(malformed("no such setting")),
            }
        }
        let last = text.lines().count();
        if let Some(what) = MUST_SAY.into_iter().find(|what| !said.contains(what)) {
            return Err(Malformed { line: last, what });
        }
        if !(1..=9).contains(&plan.members) || !(1..=64).contains(&plan.clients) || plan.watchers > 64 {
            return Err(Malformed {
                line: last,
                what: "1 to 9 members, 1 to 64 clients and at most 64 watchers",
            });
        }
        let within = |fault: &Fault| match fault.kind.whom() {
            Some(Whom::Member(number)) => number < plan.members,
            _ => true,
        };
        if !plan.faults.iter().all(within) {
            return Err(Malformed { line: last, what: "a fault meets a member that is not there" });
        }
        let in_time = |fault: &Fault| fault.at_ms <= LONGEST_MS && fault.lasts_ms <= LONGEST_MS;
        if plan.chaos_ms > LONGEST_MS || plan.lease_notes_ms > LONGEST_MS || !plan.faults.iter().all(in_time)
        {
            return Err(Malformed { line: last, what: "no time is longer than a day" });
        }
        let runs =
            |fault: &Fault| !matches!(fault.kind, Kind::Skew(_, percent) if !(-50..=50).contains(&percent));
        if !plan.faults.iter().all(runs) {
            return Err(Malformed { line: last, what: "clocks go by at most 50 percent faster or slower" });
        }
        plan.faults.sort_by_key(|fault| fault.at_ms);
        Ok(plan)
    }
}

const LONGEST_MS: u64 = 24 * 3600 * 1000;

fn fault(words: &[&str]) -> Option<Fault> {
    match words {
        ["at", at, "for", lasts, kind @ ..] => {
            Some(Fault { at_ms: at.parse().ok()?, lasts_ms: lasts.parse().ok()?, kind: Kind::parse(kind)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{Malformed, Plan};

    #[test]
    fn a_plan_is_its_text() {
        for seed in 0..200 {
            let plan = Plan { mutant: "D1".into(), ..Plan::draw(seed, 120_000) };
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn malformed_texts_name_the_line() {
        let refused = |text: &str| text.parse::<Plan>().map(drop).map_err(|Malformed { line, .. }| line);
        assert_eq!(refused("seed x"), Err(1));
        assert_eq!(refused("seed 1\nmembers"), Err(2));
        assert_eq!(refused(""), Err(0));
        assert_eq!(refused("seed 1\nmembers 3\nclients 2\n"), Err(3));
        assert_eq!(refused("seed 1\n\nat 5 for 6 dance 1"), Err(3));
        assert_eq!(refused("seed 1\nmembers 3\nclients 2\nchaos 9\nat 5 for 6 crash 3"), Err(5));
        assert_eq!(refused("members 3\nat 5 for 6 crash"), Err(2));
        assert_eq!(refused("at 5 for 6 blackout 1"), Err(1));
        let with = |fault: &str| refused(&format!("seed 1\nmembers 3\nclients 2\nchaos 9\n{fault}"));
        assert_eq!(with("at 3000 for 100 skew 0 -100"), Err(5));
        assert_eq!(with("at 3000 for 100 skew 0 -9223372036854775808"), Err(5));
        assert_eq!(with("at 18446744073709551615 for 1 blackout"), Err(5));
        assert_eq!(with("at 3000 for 100 skew 0 -50"), Ok(()));
        assert!(refused("seed 1\nmembers 3\nclients 2\nchaos 9 # and a comment\n").is_ok());
    }
    #[test]
    fn changed_texts_are_refused_or_plans() {
        let mut random = StdRng::seed_from_u64(1);
        let mut taken = 0;
        for seed in 0..2000 {
            let text = Plan::draw(seed, 20_000).to_string();
            let mut words: Vec<&str> = text.split(' ').collect();
            for _ in 0..random.random_range(1..4) {
                let from = random.random_range(0..words.len());
                let to = random.random_range(0..words.len());
                words[to] =
                    [words[from], "-1", "99999999999999999999", "leader", ""][random.random_range(0..5)];
            }
            if let Ok(plan) = words.join(" ").parse::<Plan>() {
                taken += 1;
                assert_eq!(plan.to_string().parse(), Ok(plan));
            }
        }
        assert!(taken > 20, "{taken}");
    }
}
